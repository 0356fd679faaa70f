//! One parsed header.

use std::fmt;
use std::ops::Range;

use crate::alignment::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, padded};
use crate::error::{Error, Item, MalformedKind, UnsupportedKind};
use crate::limits::Limits;
use crate::magic;
use crate::memory::Memory;
use crate::metadata::Metadata;
use crate::reader::Reader;
use crate::tensor::{self, Catalogue, TensorInfo};
use crate::value::Value;

/// One GGUF header: metadata and tensor catalogue, borrowed from the file's bytes.
///
/// For any bytes, parsing returns a header that was checked against the file, or an [`Error`]. It
/// allocates no more than a small multiple of the header's size, copies no strings and decodes no arrays.
///
/// Decisions where specification and tools differ, or where the specification has no rule:
///
/// * Tensors are in the order of their descriptions, each at the padded end of the tensor before it.
///   All tools write this order, and ggml refuses other files. A file with a gap or an overlap is refused.
/// * The padding between the descriptions and the data is zero. Other bytes are refused. The description of
///   one tensor more than the file announces is also refused.
/// * Trailing bytes after the last tensor, and a last tensor without padding, are accepted: see
///   [`trailing_bytes`](Self::trailing_bytes). The offset of a tensor without elements may be after the end
///   of the file, if only padding is missing.
/// * The alignment is a power of two (as in ggml; the specification requires a multiple of 8) up to
///   [`Limits::max_alignment`], in a `u32`.
/// * Empty keys and empty tensor names are refused. Keys need not be ASCII or lower case.
/// * A boolean other than 0 and 1 is refused, in arrays too.
#[derive(Clone)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    version: u32,
    alignment: u64,
    data_offset: u64,
    header_end: u64,
    file_len: u64,
    metadata: Metadata<'a>,
    catalogue: Catalogue<'a>,
    list_bytes: u64,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file in memory, within the default [`Limits`].
    ///
    /// ```
    /// # use gguf_format::{Gguf, GgmlType, write::GgufWriter};
    /// # let mut writer = GgufWriter::new();
    /// # writer.kv("general.architecture", "phi3").tensor("output_norm.weight", &[2], GgmlType::F32);
    /// # let bytes = writer.to_bytes(|_, data| data.fill(7)).unwrap();
    /// let gguf = Gguf::parse(&bytes)?;
    /// assert_eq!(gguf.metadata().require::<&str>("general.architecture")?, "phi3");
    /// let norm = gguf.tensor("output_norm.weight").unwrap();
    /// assert_eq!(gguf.data(norm), Some(&[7; 8][..]));
    /// # Ok::<(), gguf_format::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::Unsupported`], [`Error::Limit`], and
    /// [`Error::WrongType`] if `general.alignment` is not a `u32`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::parse_with(bytes, &Limits::default())
    }

    /// Parses a whole file in memory.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_with(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        Self::parse_header(bytes, bytes.len() as u64, limits)
    }

    /// Parses the header of a file of `file_len` bytes that starts with `prefix`. Ranges of tensors are
    /// checked against `file_len`, so their data need not be in memory.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and [`Error::Incomplete`] if the header is longer than `prefix`. Then
    /// call this again with at least as many bytes as the error says; several times as many are better.
    pub fn parse_header(prefix: &'a [u8], file_len: u64, limits: &Limits) -> Result<Self, Error> {
        // If the prefix is longer than the file, the file has been truncated since it was read. Use its new
        // length.
        let prefix = usize::try_from(file_len)
            .ok()
            .and_then(|file_len| prefix.get(..file_len))
            .unwrap_or(prefix);
        let reader = &mut Reader::new(prefix, file_len, limits);
        magic::check(reader)?;
        let version = parse_version(reader)?;
        let fixed = |s: crate::reader::Shortage| s.while_reading(Item::FixedHeader);
        let tensor_count = reader.u64().map_err(fixed)?;
        let kv_count = reader.u64().map_err(fixed)?;
        let memory = &mut Memory::new(limits.max_memory);
        let metadata = Metadata::parse(reader, kv_count, limits, memory)?;
        let alignment = u64::from(alignment(&metadata, limits)?);
        let mut catalogue = Catalogue::parse(reader, tensor_count, alignment, limits, memory)?;
        let header_end = reader.offset();
        let data_offset = padded(header_end, alignment);
        check_padding(prefix, header_end..data_offset.min(file_len), file_len, tensor_count)?;
        if header_end == data_offset {
            let end = catalogue.tensors.last().map_or(0, |tensor| tensor.range().end);
            let reader = Reader::beyond_header(prefix, file_len, header_end);
            check_counted(reader, padded(end, alignment), alignment, limits, tensor_count)?;
        }
        catalogue.place(data_offset, file_len, alignment)?;
        // A file without data need not have the padding.
        let data_offset = data_offset.min(file_len);
        Ok(Self {
            bytes: prefix,
            version,
            alignment,
            data_offset,
            header_end,
            file_len,
            metadata,
            catalogue,
            list_bytes: memory.used(),
        })
    }

    /// Returns the version of the format, 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Returns the alignment of tensor data in bytes: a power of two, 32 if the file does not state it.
    #[must_use]
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Returns the start of the data section, in bytes from the start of the file. If the file has no data and
    /// no padding, this is the end of the file.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Returns the end of the last tensor description, in bytes from the start of the file.
    pub(crate) const fn header_end(&self) -> u64 {
        self.header_end
    }

    /// Returns the memory of the lists of keys and tensors, in bytes.
    pub(crate) const fn list_bytes(&self) -> u64 {
        self.list_bytes
    }

    /// Returns the length of the file in bytes.
    pub(crate) const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Returns the end of the last tensor, in bytes from the start of the file, without padding after it. If
    /// there are no tensors, this is the data offset.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        // Tensors are in order. Skip empty ones at the end, whose offset may be after the end of the file.
        let ends = self.catalogue.tensors.iter().rev().map(TensorInfo::range);
        ends.filter(|range| !range.is_empty())
            .map(|range| range.end)
            .next()
            .unwrap_or(self.data_offset)
    }

    /// Returns the number of bytes after the last tensor and its padding. Tools write no such bytes.
    #[must_use]
    pub fn trailing_bytes(&self) -> u64 {
        self.file_len.saturating_sub(padded(self.data_end(), self.alignment))
    }

    /// Returns the key-value pairs.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata<'a> {
        &self.metadata
    }

    /// Returns all tensors, in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.catalogue.tensors
    }

    /// Returns the tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        self.catalogue.tensors.get(self.catalogue.index.get(name)?)
    }

    /// Returns the data of a tensor of this file, or `None` if the parsed bytes do not contain them.
    #[must_use]
    pub fn data(&self, tensor: &TensorInfo<'_>) -> Option<&'a [u8]> {
        bytes_of(self.bytes, &tensor.range())
    }
}

impl fmt::Debug for Gguf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("version", &self.version)
            .field("alignment", &self.alignment)
            .field("data_offset", &self.data_offset)
            .field("metadata", &self.metadata)
            .field("tensors", &self.catalogue.tensors)
            .finish_non_exhaustive()
    }
}

/// Fails if the padding after the descriptions is not zero. A cause can be that the number of tensors in the
/// file is too small.
fn check_padding(
    prefix: &[u8],
    padding: Range<u64>,
    file_len: u64,
    tensors: u64,
) -> Result<(), Error> {
    let bytes = bytes_of(prefix, &padding)
        .ok_or(Error::Incomplete { needed: padding.end.min(file_len) })?;
    match bytes.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => Err(Error::Malformed {
            offset: padding.start.saturating_add(at as u64),
            kind: MalformedKind::HeaderPadding { tensors },
        }),
    }
}

/// Fails if the description of a further tensor follows. Called if there is no padding: then
/// [`check_padding`] does not find the description, and it would be read as data.
fn check_counted(
    mut reader: Reader<'_>,
    expected: u64,
    alignment: u64,
    limits: &Limits,
    tensors: u64,
) -> Result<(), Error> {
    let offset = reader.offset();
    match tensor::description_at(&mut reader, expected, alignment, limits)? {
        None => Ok(()),
        Some(name) => Err(Error::Malformed {
            offset,
            kind: MalformedKind::UncountedTensor { name: name.to_owned(), tensors },
        }),
    }
}

fn bytes_of<'a>(bytes: &'a [u8], range: &Range<u64>) -> Option<&'a [u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

fn parse_version(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let offset = reader.offset();
    let version = reader.u32().map_err(|s| s.while_reading(Item::FixedHeader))?;
    let swapped = version.swap_bytes();
    let kind = match version {
        2 | 3 => return Ok(version),
        _ if (1..=3).contains(&swapped) => UnsupportedKind::BigEndian { version: swapped },
        _ => UnsupportedKind::Version { version },
    };
    Err(Error::Unsupported { offset, kind })
}

fn alignment(metadata: &Metadata<'_>, limits: &Limits) -> Result<u32, Error> {
    let value = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(value)) => value,
        // `require` would accept any integer type. The specification demands `u32`, and ggml refuses
        // others.
        Some(other) => {
            return Err(Error::WrongType {
                key: ALIGNMENT_KEY.to_owned(),
                expected: "u32",
                found: other.type_name(),
            });
        }
    };
    let offset = metadata.offset_of(ALIGNMENT_KEY).unwrap_or_default();
    if !value.is_power_of_two() {
        return Err(Error::Malformed { offset, kind: MalformedKind::BadAlignment { value } });
    }
    if u64::from(value) > limits.max_alignment {
        return Err(Error::Limit {
            offset,
            what: "general.alignment in bytes",
            value: value.into(),
            limit: limits.max_alignment,
        });
    }
    Ok(value)
}
