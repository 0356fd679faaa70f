//! The tensor catalogue: names, shapes, types and byte ranges.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use crate::alignment::padded;
use crate::error::{Error, Item, MalformedKind, UnsupportedKind};
use crate::ggml_type::GgmlType;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::reader::Reader;
use crate::shape::{MAX_DIMS, Shape};

/// The smallest number of bytes of a tensor description: the name's length, the number of dimensions, the type
/// and the offset.
const MIN_TENSOR_INFO_BYTES: u64 = 8 + 4 + 4 + 8;

/// How errors name the limit on the number of tensors.
pub(crate) const TENSOR_COUNT: &str = "the number of tensors";

/// How errors name the purpose of the memory for the catalogue.
pub(crate) const TENSORS: &str = "the list of tensors";

/// One tensor of the catalogue. Parsing has checked that the range is inside its file, has the length that
/// follows from shape and type, and starts at the padded end of the tensor before it. A tensor without
/// elements has an empty range. If the file ends before that offset, the range is at the end of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    name: &'a str,
    shape: Shape,
    ggml_type: GgmlType,
    range: Range<u64>,
    shard: usize,
}

impl<'a> TensorInfo<'a> {
    /// Returns the name as it is in the file. [Escape](crate::escape()) it before printing.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Returns the dimensions, contiguous first.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Returns the type of the elements.
    #[must_use]
    pub const fn ggml_type(&self) -> GgmlType {
        self.ggml_type
    }

    /// Returns the range of the data, in bytes from the start of the file ([this shard](Self::shard)).
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.range.start..self.range.end
    }

    /// Returns the size of the data in bytes.
    #[must_use]
    pub const fn byte_len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Returns the position of its file in [`GgufFile::shards`](crate::GgufFile::shards); 0 for a model in one
    /// file.
    #[must_use]
    pub const fn shard(&self) -> usize {
        self.shard
    }

    pub(crate) fn in_shard(&self, shard: usize) -> Self {
        Self { shard, ..self.clone() }
    }
}

/// Maps names to positions. The hasher has a random key, so a file cannot provoke collisions.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameIndex<'a>(HashMap<&'a str, usize>);

impl<'a> NameIndex<'a> {
    /// Returns `false` if the name exists already.
    pub(crate) fn insert(
        &mut self,
        name: &'a str,
        position: usize,
        memory: &mut Memory,
    ) -> Result<bool, Error> {
        memory.reserve_one_in(&mut self.0, TENSORS)?;
        match self.0.entry(name) {
            Entry::Occupied(_) => Ok(false),
            Entry::Vacant(vacant) => {
                vacant.insert(position);
                Ok(true)
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }
}

/// The tensors of one file, with ranges still relative to the data section.
#[derive(Clone)]
pub(crate) struct Catalogue<'a> {
    pub(crate) tensors: Vec<TensorInfo<'a>>,
    pub(crate) index: NameIndex<'a>,
}

impl<'a> Catalogue<'a> {
    /// Reads `count` tensor descriptions.
    pub(crate) fn parse(
        reader: &mut Reader<'a>,
        count: u64,
        alignment: u64,
        limits: &Limits,
        memory: &mut Memory,
    ) -> Result<Self, Error> {
        reader
            .ensure_in_file(count.saturating_mul(MIN_TENSOR_INFO_BYTES))
            .map_err(|s| s.while_reading(Item::TensorInfos { count }))?;
        if count > limits.max_tensors {
            return Err(Error::Limit {
                offset: reader.offset(),
                what: TENSOR_COUNT,
                value: count,
                limit: limits.max_tensors,
            });
        }
        let mut tensors = Vec::new();
        let mut index = NameIndex::default();
        for position in 0..count {
            let offset = reader.offset();
            let tensor = parse_tensor(reader, position, alignment, limits)?;
            if !index.insert(tensor.name, tensors.len(), memory)? {
                let name = tensor.name.to_owned();
                return Err(Error::Malformed {
                    offset,
                    kind: MalformedKind::DuplicateTensor { name },
                });
            }
            memory.push(&mut tensors, tensor, TENSORS)?;
        }
        Ok(Self { tensors, index })
    }

    /// Makes the ranges absolute. Checks that each tensor starts at the padded end of the tensor before
    /// it, and that all are inside the file.
    pub(crate) fn place(
        &mut self,
        data_offset: u64,
        file_len: u64,
        alignment: u64,
    ) -> Result<(), Error> {
        let data_len = self.check_offsets(data_offset, alignment)?;
        let file_end = data_offset.saturating_add(data_len);
        let padded_len = padded(file_len, alignment);
        for tensor in &mut self.tensors {
            let relative = tensor.range.clone();
            let (Some(start), Some(end)) =
                (relative.start.checked_add(data_offset), relative.end.checked_add(data_offset))
            else {
                return Err(overflow(tensor.name, relative.start, data_offset));
            };
            // A tensor without elements takes no bytes. The file may end before its offset, because some tools
            // omit the padding after the last data.
            if relative.is_empty() && start <= padded_len {
                let at = start.min(file_len);
                tensor.range = at..at;
                continue;
            }
            if end > file_len {
                // The file is too short. If this tensor has no elements, the missing bytes belong to earlier
                // tensors.
                let offset = if relative.is_empty() { file_len } else { start };
                return Err(Error::Truncated {
                    item: Item::TensorData { name: tensor.name.to_owned(), file_end, file_len },
                    offset,
                    needed: end.saturating_sub(offset),
                    available: file_len.saturating_sub(offset),
                });
            }
            tensor.range = start..end;
        }
        Ok(())
    }

    /// Checks the offsets of all tensors. Returns the end of the last tensor in the data section, without
    /// padding.
    ///
    /// All tools write tensors in the order of their descriptions, each at the padded sum of the sizes
    /// before it, and llama.cpp refuses other files. If an offset differs, a computed size differs from that
    /// of the writer: the type belongs to a fork, or the header is damaged.
    fn check_offsets(&self, data_offset: u64, alignment: u64) -> Result<u64, Error> {
        let mut end = 0;
        let mut before: Option<&TensorInfo<'_>> = None;
        for tensor in &self.tensors {
            let (offset, expected) = (tensor.range.start, padded(end, alignment));
            if offset != expected {
                return Err(Error::Malformed {
                    offset: data_offset.saturating_add(offset),
                    kind: MalformedKind::MisplacedTensor {
                        name: tensor.name.to_owned(),
                        ggml_type: tensor.ggml_type,
                        offset,
                        expected,
                        before: before.map(|t| Box::new((t.name.to_owned(), t.ggml_type))),
                    },
                });
            }
            end = tensor.range.end;
            before = Some(tensor);
        }
        Ok(end)
    }
}

/// Returns the tensor name at the reader's position, if the bytes there are a valid next description: a known
/// type, whole blocks, and exactly the offset `expected`. Data do not have this form by chance.
///
/// # Errors
///
/// [`Error::Incomplete`] if more bytes are needed to decide. For most data the first eight bytes, as
/// the length of a name, are enough.
pub(crate) fn description_at<'a>(
    reader: &mut Reader<'a>,
    expected: u64,
    alignment: u64,
    limits: &Limits,
) -> Result<Option<&'a str>, Error> {
    match parse_tensor(reader, 0, alignment, limits) {
        Ok(tensor) => Ok((tensor.range.start == expected).then_some(tensor.name)),
        Err(error @ Error::Incomplete { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}

fn parse_tensor<'a>(
    reader: &mut Reader<'a>,
    index: u64,
    alignment: u64,
    limits: &Limits,
) -> Result<TensorInfo<'a>, Error> {
    let at = reader.offset();
    let name =
        reader.string_up_to(limits.max_name_len, "the length of a tensor name in bytes", || {
            Item::TensorName { index }
        })?;
    let name = std::str::from_utf8(name).map_err(|_| Error::Malformed {
        offset: at,
        kind: MalformedKind::InvalidUtf8 { item: Item::TensorName { index } },
    })?;
    if name.is_empty() {
        return Err(Error::Malformed {
            offset: at,
            kind: MalformedKind::EmptyTensorName { index },
        });
    }
    let info = || Item::TensorInfo { name: name.to_owned() };

    let shape = parse_shape(reader, name)?;

    let at = reader.offset();
    let id = reader.u32().map_err(|s| s.while_reading(info()))?;
    let ggml_type = GgmlType::from_id(id).ok_or_else(|| unknown_type(name, id, at))?;
    if shape.row_len().checked_rem(ggml_type.block_len()) != Some(0) {
        return Err(Error::Malformed {
            offset: at,
            kind: MalformedKind::PartialBlock {
                name: name.to_owned(),
                ggml_type,
                row_len: shape.row_len(),
            },
        });
    }

    let at = reader.offset();
    let start = reader.u64().map_err(|s| s.while_reading(info()))?;
    if start.checked_rem(alignment) != Some(0) {
        return Err(Error::Malformed {
            offset: at,
            kind: MalformedKind::MisalignedTensor {
                name: name.to_owned(),
                offset: start,
                alignment,
            },
        });
    }
    let end = ggml_type
        .bytes_for(shape.elements())
        .and_then(|bytes| start.checked_add(bytes))
        .ok_or_else(|| overflow(name, start, at))?;
    Ok(TensorInfo { name, shape, ggml_type, range: start..end, shard: 0 })
}

fn parse_shape(reader: &mut Reader<'_>, name: &str) -> Result<Shape, Error> {
    let info = || Item::TensorInfo { name: name.to_owned() };
    let at = reader.offset();
    let n_dims = reader.u32().map_err(|s| s.while_reading(info()))?;
    let mut dims = [0; MAX_DIMS];
    let Some(dims) = usize::try_from(n_dims).ok().and_then(|n| dims.get_mut(..n)) else {
        return Err(Error::Malformed {
            offset: at,
            kind: MalformedKind::TooManyDimensions { name: name.to_owned(), n_dims },
        });
    };
    for dim in dims.iter_mut() {
        *dim = reader.u64().map_err(|s| s.while_reading(info()))?;
    }
    Shape::new(dims).ok_or_else(|| Error::Malformed {
        offset: at,
        kind: MalformedKind::TooManyElements { name: name.to_owned(), dims: dims.to_vec() },
    })
}

fn unknown_type(name: &str, id: u32, offset: u64) -> Error {
    let name = name.to_owned();
    let kind = match GgmlType::removed_name(id) {
        Some(removed) => UnsupportedKind::RemovedTensorType { name, id, removed },
        None => UnsupportedKind::UnknownTensorType { name, id },
    };
    Error::Unsupported { offset, kind }
}

fn overflow(name: &str, tensor_offset: u64, offset: u64) -> Error {
    Error::Malformed {
        offset,
        kind: MalformedKind::TensorOverflow { name: name.to_owned(), offset: tensor_offset },
    }
}
