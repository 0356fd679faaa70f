//! How much of a file's claims to believe.

/// Upper bounds on what a header may ask for.
///
/// Parsing never allocates by a count in the file, so even without limits memory is bounded by a
/// small multiple of the header's bytes; the limits bound the header itself. The defaults pass
/// every published file that keeps to the specification. What exceeds one is
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
    /// Bytes from the start of the file to the end of the last tensor description; of a split model,
    /// those of all shards together. Default 48 MiB; a vocabulary of 262,144 tokens with merges takes
    /// less than 20 MiB. What is read and kept of the files is at most some three times as much.
    pub max_header_bytes: u64,
    /// Key-value pairs; of a split model, those of all shards together. Default 262,144; real files
    /// have fewer than 100.
    pub max_kv: u64,
    /// Tensors, of all shards together as well. Default 262,144; real models have fewer than 5,000.
    pub max_tensors: u64,
    /// Bytes of a key. Default 65,535, as the specification says.
    pub max_key_len: u64,
    /// Bytes of a tensor's name. Default 64, as the specification says (ggml itself stores 63, and
    /// stable-diffusion.cpp, which has it built with more, writes names of up to 127).
    pub max_name_len: u64,
    /// Arrays inside arrays, counting the outermost. Default 8; ggml itself reads 1. Parsing costs
    /// the same at any depth, but going through such an array level by level costs the product of
    /// its depth and its bytes.
    pub max_array_depth: u64,
    /// Bytes of `general.alignment`. Default 16 MiB; real files use 32, up to the size of a huge
    /// page.
    pub max_alignment: u64,
    /// Files of a split model. Default 1,024: each is kept open.
    pub max_shards: u64,
    /// Bytes of memory for headers, and for the lists of their keys and tensors; of a split model, for
    /// all shards together. Default is no limit. It is for processes that are ended when they take too
    /// much, as in a container: what exceeds it is
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
