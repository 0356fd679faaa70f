//! Skips arrays: checks that they are inside the file, and does not decode them.

use crate::error::{Error, Item, MalformedKind};
use crate::reader::{Reader, Shortage};
use crate::text::Text;
use crate::value_type::ValueType;

/// The smallest number of bytes of an inner array: element type and count.
const MIN_ARRAY_BYTES: u64 = 12;

/// The place of an array in the file.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Extent<'a> {
    pub(crate) element_type: ValueType,
    /// Number of elements of the outermost level.
    pub(crate) len: usize,
    /// The elements as they are in the file.
    pub(crate) payload: &'a [u8],
    /// Start of `payload` in the file, in bytes.
    pub(crate) offset: u64,
}

/// Reads an array's element type and count, and skips its elements.
pub(crate) fn array<'a>(
    reader: &mut Reader<'a>,
    key: Text<'_>,
    max_depth: u64,
) -> Result<Extent<'a>, Error> {
    let (element_type, count) = array_header(reader, key)?;
    let offset = reader.offset();
    let payload = match element_type {
        ValueType::Array => {
            nested(reader, key, count, max_depth)?;
            reader.since(offset)
        }
        _ => flat(reader, key, element_type, count)?,
    };
    // Every element takes at least one byte of the payload, which is in memory.
    let len = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Extent { element_type, len, payload, offset })
}

/// Returns a function that makes the error for an incomplete value of this key.
pub(crate) fn value_of(key: Text<'_>) -> impl FnOnce(Shortage) -> Error + '_ {
    move |shortage| shortage.while_reading(Item::Value { key: owned(key) })
}

/// Returns a key for an error.
fn owned(key: Text<'_>) -> Vec<u8> {
    key.as_bytes().to_vec()
}

fn array_header(reader: &mut Reader<'_>, key: Text<'_>) -> Result<(ValueType, u64), Error> {
    let element_type = value_type(reader, key)?;
    let count = reader.u64().map_err(value_of(key))?;
    Ok((element_type, count))
}

/// Reads the number of a value type.
pub(crate) fn value_type(reader: &mut Reader<'_>, key: Text<'_>) -> Result<ValueType, Error> {
    let offset = reader.offset();
    let id = reader.u32().map_err(value_of(key))?;
    ValueType::from_id(id).ok_or_else(|| Error::Malformed {
        offset,
        kind: MalformedKind::UnknownValueType { key: owned(key), id },
    })
}

/// Skips the elements of an array that is not nested; returns their bytes.
fn flat<'a>(
    reader: &mut Reader<'a>,
    key: Text<'_>,
    element_type: ValueType,
    count: u64,
) -> Result<&'a [u8], Error> {
    let Some(size) = element_type.size() else {
        return reader.skip_strings(count).map_err(value_of(key));
    };
    let offset = reader.offset();
    // If the product exceeds 64 bits, it exceeds the file as well.
    let payload = reader.take(count.saturating_mul(size)).map_err(value_of(key))?;
    if element_type == ValueType::Bool {
        booleans(payload, key, offset)?;
    }
    Ok(payload)
}

fn booleans(payload: &[u8], key: Text<'_>, offset: u64) -> Result<(), Error> {
    match payload.iter().position(|&byte| byte > 1) {
        None => Ok(()),
        Some(at) => Err(invalid_bool(
            key,
            payload.get(at).copied().unwrap_or_default(),
            offset.saturating_add(at as u64),
        )),
    }
}

/// Returns the error for a boolean that is neither 0 nor 1.
pub(crate) fn invalid_bool(key: Text<'_>, value: u8, offset: u64) -> Error {
    Error::Malformed { offset, kind: MalformedKind::InvalidBool { key: owned(key), value } }
}

/// Skips `count` inner arrays without recursion. The stack holds the number of remaining arrays on each
/// level. Its height is the depth of nesting, which is checked before the stack grows.
fn nested(reader: &mut Reader<'_>, key: Text<'_>, count: u64, max_depth: u64) -> Result<(), Error> {
    let mut left = vec![announced(reader, key, count)?];
    while let Some(innermost) = left.last_mut() {
        let Some(fewer) = innermost.checked_sub(1) else {
            left.pop();
            continue;
        };
        *innermost = fewer;
        let offset = reader.offset();
        let (element_type, count) = array_header(reader, key)?;
        let depth = (left.len() as u64).saturating_add(1);
        if depth > max_depth {
            return Err(Error::Limit {
                offset,
                what: "the depth of nested arrays",
                value: depth,
                limit: max_depth,
            });
        }
        match element_type {
            ValueType::Array => left.push(announced(reader, key, count)?),
            _ => {
                flat(reader, key, element_type, count)?;
            }
        }
    }
    Ok(())
}

/// Returns `count`. Fails if the file is too short for this number of inner arrays.
fn announced(reader: &Reader<'_>, key: Text<'_>, count: u64) -> Result<u64, Error> {
    reader
        .ensure_in_file(count.saturating_mul(MIN_ARRAY_BYTES))
        .map(|()| count)
        .map_err(value_of(key))
}
