//! Limits on the size of headers.

/// Upper bounds on the sizes and counts in a header.
///
/// Parsing never allocates by a count in the file. Even without limits, memory is bounded by a small
/// multiple of the header's bytes, and the limits bound the header. All published files that follow the
/// specification are within the defaults. A file that exceeds a limit is
/// [`Error::Limit`](crate::Error).
///
/// ```
/// use gguf_format::Limits;
/// let strict = Limits::default().with_max_header_bytes(1 << 20).with_max_tensors(4096);
/// assert_eq!(strict.max_tensors, 4096);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes from the start of the file to the end of the last tensor description. For a split model,
    /// those of all shards together. Default 48 MiB; a vocabulary of 262,144 tokens with merges takes
    /// less than 20 MiB. Opening a model reads and keeps at most about three times this number of bytes.
    pub max_header_bytes: u64,
    /// Key-value pairs. For a split model, those of all shards together. Default 262,144; real files
    /// have fewer than 100.
    pub max_kv: u64,
    /// Tensors. For a split model, those of all shards together. Default 262,144; real models have
    /// fewer than 5,000.
    pub max_tensors: u64,
    /// Bytes of a key. Default 65,535, as the specification says.
    pub max_key_len: u64,
    /// Bytes of a tensor's name. Default 64, as the specification says. (ggml stores 63.
    /// stable-diffusion.cpp is built with a larger limit and writes names of up to 127.)
    pub max_name_len: u64,
    /// Nesting of arrays, including the outermost. Default 8; ggml reads 1. The cost of parsing does
    /// not depend on the depth, but iterating over such an array level by level costs the product of
    /// its depth and its bytes.
    pub max_array_depth: u64,
    /// Bytes of `general.alignment`. Default 16 MiB; real files use 32 bytes up to the size of a huge
    /// page.
    pub max_alignment: u64,
    /// Files of a split model. Default 1,024, because each file is kept open.
    pub max_shards: u64,
    /// Bytes of memory for headers and for the lists of keys and tensors. For a split model, those of
    /// all shards together. There is no limit by default. Set it if the system kills processes that take
    /// too much memory, as in a container. A file that exceeds it is
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub max_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 48 << 20,
            max_kv: 1 << 18,
            max_tensors: 1 << 18,
            max_key_len: 65_535,
            max_name_len: 64,
            max_array_depth: 8,
            max_alignment: 16 << 20,
            max_shards: 1024,
            max_memory: u64::MAX,
        }
    }
}

macro_rules! setters {
    ($( $setter:ident => $field:ident; )+) => {
        impl Limits {
            $(
                #[doc = concat!("Replaces [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub const fn $setter(mut self, value: u64) -> Self {
                    self.$field = value;
                    self
                }
            )+
        }
    };
}

setters! {
    with_max_header_bytes => max_header_bytes;
    with_max_kv => max_kv;
    with_max_tensors => max_tensors;
    with_max_key_len => max_key_len;
    with_max_name_len => max_name_len;
    with_max_array_depth => max_array_depth;
    with_max_alignment => max_alignment;
    with_max_shards => max_shards;
    with_max_memory => max_memory;
}
