//! Writes GGUF files. The caller provides the data.
//!
//! This module needs no feature: it is small, has no dependencies, and every test of code that reads GGUF
//! needs it. A [`GgufWriter`] collects keys and tensors. [`layout`](GgufWriter::layout) returns the bytes of
//! the header and the ranges of the data, so that the caller can stream files of many gigabytes.
//! [`to_bytes`](GgufWriter::to_bytes) writes small files in memory.
//!
//! [`Gguf::parse`](crate::Gguf::parse) accepts every file that the writer accepts, if its header and
//! counts are within the default [`Limits`].
//!
//! ```
//! use gguf_format::{Gguf, GgmlType, write::GgufWriter};
//!
//! let mut writer = GgufWriter::new();
//! writer
//!     .kv("general.architecture", "phi3")
//!     .kv("phi3.block_count", 32u32)
//!     .kv("tokenizer.ggml.tokens", vec!["<s>".to_owned(), "</s>".to_owned()])
//!     .tensor("output_norm.weight", &[3072], GgmlType::F32);
//! let layout = writer.layout()?;
//! assert_eq!(layout.header().len() as u64, layout.data_offset());
//! assert_eq!(layout.ranges()[0].end - layout.ranges()[0].start, 4 * 3072);
//!
//! let bytes = writer.to_bytes(|_index, data| data.fill(0))?;
//! assert_eq!(Gguf::parse(&bytes).unwrap().tensors()[0].range(), layout.ranges()[0]);
//! # Ok::<(), gguf_format::write::WriteError>(())
//! ```

use std::collections::HashSet;
use std::ops::Range;

use crate::alignment::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, padded};
use crate::escape::quoted;
use crate::ggml_type::GgmlType;
use crate::limits::Limits;
use crate::shape::Shape;
use crate::split;
use crate::value_type::ValueType;

/// The reason why a file cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A version other than 2 and 3.
    #[error("GGUF version {0} cannot be written: only versions 2 and 3")]
    Version(u32),
    /// An alignment that is not a power of two or exceeds [`Limits::max_alignment`].
    #[error("the alignment {0} is not a power of two up to 16 MiB")]
    Alignment(u32),
    /// A key or tensor name that is empty or too long.
    #[error("the name {} has {} bytes: only names of 1 to {max} bytes can be written", quoted(.name), .name.len())]
    NameLength {
        /// The name.
        name: String,
        /// The most bytes that it can have.
        max: u64,
    },
    /// A key that occurs twice. The `split.` keys are written by [`GgufWriter::split`].
    #[error("the key {} occurs twice", quoted(.0))]
    DuplicateKey(String),
    /// `general.alignment` as a key. Use [`GgufWriter::alignment`], because the offsets of the tensors depend
    /// on it.
    #[error("general.alignment is set by the writer's alignment, not as a key")]
    AlignmentKey,
    /// A tensor name that occurs twice.
    #[error("the tensor {} occurs twice", quoted(.0))]
    DuplicateTensor(String),
    /// Dimensions or a size that GGUF cannot express.
    #[error("tensor {} with dimensions {dims:?} is too large or has too many dimensions", quoted(.name))]
    Shape {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
    },
    /// Rows that are not a whole number of blocks.
    #[error("the row length of tensor {} is not a multiple of the block size of {ggml_type}", quoted(.name))]
    PartialBlock {
        /// The tensor.
        name: String,
        /// Its type.
        ggml_type: GgmlType,
    },
    /// Arrays nested deeper than [`Limits::max_array_depth`].
    #[error("the arrays of key {} are nested too deep", quoted(.0))]
    ArrayDepth(String),
    /// The file does not fit in memory.
    #[error("a file of {0} bytes does not fit in memory")]
    Memory(u64),
}

/// Declares the owned value types with their conversions from Rust types.
macro_rules! owned_values {
    ($( $variant:ident($rust:ty) )+) => {
        /// A value to be written.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "each variant is the type it is named after")]
        pub enum WriteValue {
            $( $variant($rust), )+
            Array(WriteArray),
        }

        /// An array to be written.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "each variant is the type it is named after")]
        pub enum WriteArray {
            $( $variant(Vec<$rust>), )+
            Array(Vec<WriteArray>),
        }

        $(
            impl From<$rust> for WriteValue {
                fn from(value: $rust) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$rust>> for WriteValue {
                fn from(values: Vec<$rust>) -> Self {
                    Self::Array(WriteArray::$variant(values))
                }
            }
        )+

        impl WriteValue {
            fn value_type(&self) -> ValueType {
                match self {
                    $( Self::$variant(_) => ValueType::$variant, )+
                    Self::Array(_) => ValueType::Array,
                }
            }

            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $( Self::$variant(value) => value.put(out), )+
                    Self::Array(array) => array.put(out),
                }
            }
        }

        impl WriteArray {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $( Self::$variant(values) => put_array(out, ValueType::$variant, values), )+
                    Self::Array(arrays) => put_array(out, ValueType::Array, arrays),
                }
            }
        }
    };
}

owned_values! {
    U8(u8) I8(i8) U16(u16) I16(i16) U32(u32) I32(i32) F32(f32) Bool(bool) String(String) U64(u64)
    I64(i64) F64(f64)
}

impl From<&str> for WriteValue {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<WriteArray> for WriteValue {
    fn from(value: WriteArray) -> Self {
        Self::Array(value)
    }
}

impl WriteArray {
    /// Returns the levels of nesting; 1 for an array that is not nested.
    fn depth(&self) -> u64 {
        match self {
            Self::Array(inner) => {
                inner.iter().map(Self::depth).max().unwrap_or(0).saturating_add(1)
            }
            _ => 1,
        }
    }
}

/// The bytes of a value in a file.
trait Put {
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! put_numbers {
    ($( $rust:ty )+) => { $(
        impl Put for $rust {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )+ };
}

put_numbers! { u8 i8 u16 i16 u32 i32 f32 u64 i64 f64 }

impl Put for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Put for str {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        out.extend_from_slice(self.as_bytes());
    }
}

impl Put for String {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().put(out);
    }
}

impl Put for WriteArray {
    fn put(&self, out: &mut Vec<u8>) {
        Self::put(self, out);
    }
}

fn put_array<T: Put>(out: &mut Vec<u8>, element_type: ValueType, values: &[T]) {
    element_type.id().put(out);
    (values.len() as u64).put(out);
    for value in values {
        value.put(out);
    }
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    dims: Vec<u64>,
    ggml_type: GgmlType,
}

/// Collects the contents of a file. Keys and tensors are written in the order in which they are added.
/// [`layout`](Self::layout) reports mistakes.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    version: u32,
    alignment: Option<u32>,
    kvs: Vec<(String, WriteValue)>,
    tensors: Vec<Tensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// Returns an empty file of version 3 with the default alignment of 32 bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self { version: 3, alignment: None, kvs: Vec::new(), tensors: Vec::new() }
    }

    /// Sets the version, 2 or 3. Both have the same layout.
    pub const fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Sets the alignment in bytes, a power of two, and writes it as the last key.
    pub const fn alignment(&mut self, bytes: u32) -> &mut Self {
        self.alignment = Some(bytes);
        self
    }

    /// Adds a key. Not allowed for `general.alignment`, which [`alignment`](Self::alignment) writes.
    pub fn kv(&mut self, key: impl Into<String>, value: impl Into<WriteValue>) -> &mut Self {
        self.kvs.push((key.into(), value.into()));
        self
    }

    /// Adds the keys of a shard, with the types that llama.cpp uses: the number of the shard from 0, the
    /// number of shards, and the number of tensors in all shards. The file must have the name
    /// `PREFIX-00001-of-0000N.gguf`, numbered from 1.
    pub fn split(&mut self, no: u16, count: u16, tensors: i32) -> &mut Self {
        self.kv(split::NO_KEY, no).kv(split::COUNT_KEY, count).kv(split::TENSORS_KEY, tensors)
    }

    /// Adds a tensor: dimensions in elements, the contiguous one first.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dims: &[u64],
        ggml_type: GgmlType,
    ) -> &mut Self {
        self.tensors.push(Tensor { name: name.into(), dims: dims.to_vec(), ggml_type });
        self
    }

    /// Returns the bytes of the header and the ranges of the data.
    ///
    /// # Errors
    ///
    /// The first fault: see [`WriteError`].
    pub fn layout(&self) -> Result<Layout, WriteError> {
        let limits = Limits::default();
        let alignment = self.checked_alignment(&limits)?;
        let own_key = self.alignment.map(|bytes| (ALIGNMENT_KEY.to_owned(), bytes.into()));
        let kvs = || self.kvs.iter().chain(&own_key);
        let mut header = b"GGUF".to_vec();
        self.version.put(&mut header);
        (self.tensors.len() as u64).put(&mut header);
        (kvs().count() as u64).put(&mut header);
        put_kvs(kvs(), &limits, &mut header)?;
        let ranges = self.put_tensors(alignment, &limits, &mut header)?;
        let end = ranges.last().map_or(0, |range| range.end);
        Layout::new(header, ranges, alignment)
            .ok_or_else(|| self.tensors.last().map_or(WriteError::Memory(end), Tensor::too_large))
    }

    /// Checks version and alignment. Returns the alignment in bytes.
    fn checked_alignment(&self, limits: &Limits) -> Result<u64, WriteError> {
        if !matches!(self.version, 2 | 3) {
            return Err(WriteError::Version(self.version));
        }
        let alignment = self.alignment.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || u64::from(alignment) > limits.max_alignment {
            return Err(WriteError::Alignment(alignment));
        }
        if self.kvs.iter().any(|(key, _)| key == ALIGNMENT_KEY) {
            return Err(WriteError::AlignmentKey);
        }
        Ok(u64::from(alignment))
    }

    /// Appends the descriptions of the tensors. Returns their ranges in the data section.
    fn put_tensors(
        &self,
        alignment: u64,
        limits: &Limits,
        header: &mut Vec<u8>,
    ) -> Result<Vec<Range<u64>>, WriteError> {
        let mut names = HashSet::new();
        let mut ranges = Vec::with_capacity(self.tensors.len());
        let mut end = 0u64;
        for tensor in &self.tensors {
            check_name(&tensor.name, limits.max_name_len)?;
            if !names.insert(&tensor.name) {
                return Err(WriteError::DuplicateTensor(tensor.name.clone()));
            }
            let start = padded(end, alignment);
            let bytes = tensor.bytes()?;
            end = start.checked_add(bytes).ok_or_else(|| tensor.too_large())?;
            ranges.push(start..end);
            tensor.name.put(header);
            // A shape has at most four dimensions.
            u32::try_from(tensor.dims.len()).unwrap_or(u32::MAX).put(header);
            for dim in &tensor.dims {
                dim.put(header);
            }
            tensor.ggml_type.id().put(header);
            start.put(header);
        }
        Ok(ranges)
    }

    /// Returns the whole file in memory. Calls `fill` with the index and the zeroed data of each tensor.
    ///
    /// # Errors
    ///
    /// Those of [`layout`](Self::layout), and [`WriteError::Memory`].
    pub fn to_bytes(&self, mut fill: impl FnMut(usize, &mut [u8])) -> Result<Vec<u8>, WriteError> {
        let layout = self.layout()?;
        let memory = || WriteError::Memory(layout.file_len());
        let len = usize::try_from(layout.file_len()).map_err(|_| memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| memory())?;
        bytes.extend_from_slice(layout.header());
        bytes.resize(len, 0);
        for (index, range) in layout.ranges().iter().enumerate() {
            let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let data = range.and_then(|(start, end)| bytes.get_mut(start..end));
            fill(index, data.ok_or_else(memory)?);
        }
        Ok(bytes)
    }
}

impl Tensor {
    fn bytes(&self) -> Result<u64, WriteError> {
        let shape = Shape::new(&self.dims).ok_or_else(|| self.too_large())?;
        if shape.row_len().checked_rem(self.ggml_type.block_len()) != Some(0) {
            let name = self.name.clone();
            return Err(WriteError::PartialBlock { name, ggml_type: self.ggml_type });
        }
        self.ggml_type.bytes_for(shape.elements()).ok_or_else(|| self.too_large())
    }

    fn too_large(&self) -> WriteError {
        WriteError::Shape { name: self.name.clone(), dims: self.dims.clone() }
    }
}

/// Appends the key-value pairs.
fn put_kvs<'a>(
    kvs: impl Iterator<Item = &'a (String, WriteValue)>,
    limits: &Limits,
    header: &mut Vec<u8>,
) -> Result<(), WriteError> {
    let mut keys = HashSet::new();
    for (key, value) in kvs {
        check_name(key, limits.max_key_len)?;
        if !keys.insert(key) {
            return Err(WriteError::DuplicateKey(key.clone()));
        }
        if let WriteValue::Array(array) = value
            && array.depth() > limits.max_array_depth
        {
            return Err(WriteError::ArrayDepth(key.clone()));
        }
        key.put(header);
        value.value_type().id().put(header);
        value.put(header);
    }
    Ok(())
}

fn check_name(name: &str, max: u64) -> Result<(), WriteError> {
    if (1..=max).contains(&(name.len() as u64)) {
        Ok(())
    } else {
        Err(WriteError::NameLength { name: name.to_owned(), max })
    }
}

/// The positions of all parts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    header: Vec<u8>,
    ranges: Vec<Range<u64>>,
    file_len: u64,
}

impl Layout {
    /// Makes the layout from an unpadded header and ranges in the data section. `None` if a position exceeds
    /// 64 bits.
    fn new(mut header: Vec<u8>, mut ranges: Vec<Range<u64>>, alignment: u64) -> Option<Self> {
        header.resize(header.len().checked_next_multiple_of(usize::try_from(alignment).ok()?)?, 0);
        let data_offset = header.len() as u64;
        for range in &mut ranges {
            range.start = range.start.checked_add(data_offset)?;
            range.end = range.end.checked_add(data_offset)?;
        }
        let end = ranges.last().map_or(data_offset, |last| last.end);
        Some(Self { header, ranges, file_len: end.checked_next_multiple_of(alignment)? })
    }

    /// Returns the first bytes of the file, up to [`data_offset`](Self::data_offset), padding included.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Returns the start of the data section, in bytes from the start of the file.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.header.len() as u64
    }

    /// Returns the range of each tensor's data, in bytes from the start of the file. They are in the order in
    /// which the tensors were added, which is ascending. The padding between them is zeros.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Returns the length of the file in bytes, with the padding after the last tensor.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }
}
