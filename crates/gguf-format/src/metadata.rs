//! The key-value pairs of a file, in its order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::array::{Array, ByteStrings, Element, Elements, Strings};
use crate::error::{Error, Item, MalformedKind};
use crate::limits::Limits;
use crate::memory::Memory;
use crate::reader::Reader;
use crate::skip;
use crate::text::Text;
use crate::value::Value;
use crate::value_type::ValueType;

/// The smallest number of bytes of a key-value pair: the key's length, the type, and a value of one byte.
const MIN_KV_BYTES: u64 = 8 + 4 + 1;

/// How errors name the limit on the number of keys.
pub(crate) const KEY_COUNT: &str = "the number of key-value pairs";

/// How errors name the purpose of the memory for the keys.
const KEYS: &str = "the list of keys";

/// The key-value pairs of a file in file order. Keys are unique, and a lookup takes constant time.
///
/// Keys and strings need not be UTF-8. A key that is not UTF-8 is accepted: [`iter`](Self::iter)
/// returns it, and no lookup finds it. A string that is not UTF-8 is an error only if it is requested
/// as `&str`.
///
/// ```
/// # use gguf_format::{Error, Metadata, Strings};
/// fn read(metadata: &Metadata<'_>) -> Result<(), Error> {
///     let architecture: &str = metadata.require("general.architecture")?;
///     let layers: u32 = metadata.require("phi3.block_count")?;
///     let window: Option<u32> = metadata.optional("phi3.attention.sliding_window")?;
///     let tokens: Strings<'_> = metadata.require("tokenizer.ggml.tokens")?;
///     println!("{architecture}: {layers} layers, window {window:?}, {} tokens", tokens.len());
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Metadata<'a> {
    pairs: Vec<Pair<'a>>,
    /// Maps keys to positions in `pairs`. The hasher has a random key, so a file cannot provoke collisions.
    index: HashMap<&'a [u8], usize>,
}

#[derive(Debug, Clone)]
struct Pair<'a> {
    key: Text<'a>,
    value: Value<'a>,
    /// Start of the pair in the file, in bytes.
    offset: u64,
}

impl<'a> Metadata<'a> {
    /// Reads `count` pairs.
    pub(crate) fn parse(
        reader: &mut Reader<'a>,
        count: u64,
        limits: &Limits,
        memory: &mut Memory,
    ) -> Result<Self, Error> {
        reader
            .ensure_in_file(count.saturating_mul(MIN_KV_BYTES))
            .map_err(|s| s.while_reading(Item::KeyValues { count }))?;
        if count > limits.max_kv {
            return Err(Error::Limit {
                offset: reader.offset(),
                what: KEY_COUNT,
                value: count,
                limit: limits.max_kv,
            });
        }
        let mut metadata = Self::default();
        for index in 0..count {
            metadata.parse_pair(reader, index, limits, memory)?;
        }
        Ok(metadata)
    }

    fn parse_pair(
        &mut self,
        reader: &mut Reader<'a>,
        index: u64,
        limits: &Limits,
        memory: &mut Memory,
    ) -> Result<(), Error> {
        let offset = reader.offset();
        let malformed = |kind| Error::Malformed { offset, kind };
        let key =
            reader.string_up_to(limits.max_key_len, "the length of a key in bytes", || {
                Item::Key { index }
            })?;
        if key.is_empty() {
            return Err(malformed(MalformedKind::EmptyKey { index }));
        }
        memory.reserve_one_in(&mut self.index, KEYS)?;
        match self.index.entry(key) {
            Entry::Occupied(_) => {
                return Err(malformed(MalformedKind::DuplicateKey { key: key.to_vec() }));
            }
            Entry::Vacant(vacant) => vacant.insert(self.pairs.len()),
        };
        let key = Text::from(key);
        let value = parse_value(reader, key, limits)?;
        memory.push(&mut self.pairs, Pair { key, value, offset }, KEYS)
    }

    /// Returns the value of `key`, as it is in the file.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.pair(key).map(|pair| pair.value)
    }

    /// Returns the start of the pair of this key in the file, in bytes.
    pub(crate) fn offset_of(&self, key: &str) -> Option<u64> {
        self.pair(key).map(|pair| pair.offset)
    }

    fn pair(&self, key: &str) -> Option<&Pair<'a>> {
        self.pairs.get(*self.index.get(key.as_bytes())?)
    }

    /// Returns the value of `key` as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if there is no such key, and the errors of [`optional`](Self::optional).
    pub fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, Error> {
        self.optional(key)?.ok_or_else(|| Error::Missing { key: key.to_owned() })
    }

    /// Returns the value of `key` as a `T`, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] and [`Error::OutOfRange`] if the value is not a `T`, and
    /// [`Error::Malformed`] if `T` is `&str` and the string is not UTF-8: see [`FromValue`]. A key of
    /// the wrong type is never treated as absent.
    pub fn optional<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(&Pair { value, offset, .. }) = self.pair(key) else { return Ok(None) };
        T::from_value(value).map(Some).map_err(|mismatch| match mismatch {
            Mismatch::Type => Error::WrongType {
                key: key.to_owned(),
                expected: T::NAME,
                found: value.type_name(),
            },
            Mismatch::Range(value) => {
                Error::OutOfRange { key: key.to_owned(), expected: T::NAME, value }
            }
            Mismatch::Utf8 => Error::Malformed {
                // Skip the key, its length (8 bytes) and the type of the value (4 bytes).
                offset: offset.saturating_add(8 + 4).saturating_add(key.len() as u64),
                kind: MalformedKind::InvalidUtf8 { item: Item::Value { key: key.into() } },
            },
        })
    }

    /// Returns whether there is such a key.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key.as_bytes())
    }

    /// Returns all pairs, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Text<'a>, Value<'a>)> + '_ {
        self.pairs.iter().map(|pair| (pair.key, pair.value))
    }

    /// Returns the number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Returns whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

fn parse_value<'a>(
    reader: &mut Reader<'a>,
    key: Text<'a>,
    limits: &Limits,
) -> Result<Value<'a>, Error> {
    let value_type = skip::value_type(reader, key)?;
    let offset = reader.offset();
    let value = match value_type {
        ValueType::Array => {
            let array = skip::array(reader, key, limits.max_array_depth)?;
            return Ok(Value::Array(array.into()));
        }
        ValueType::U8 => reader.u8().map(Value::U8),
        ValueType::I8 => reader.fixed().map(|b| Value::I8(i8::from_le_bytes(b))),
        ValueType::U16 => reader.fixed().map(|b| Value::U16(u16::from_le_bytes(b))),
        ValueType::I16 => reader.fixed().map(|b| Value::I16(i16::from_le_bytes(b))),
        ValueType::U32 => reader.u32().map(Value::U32),
        ValueType::I32 => reader.fixed().map(|b| Value::I32(i32::from_le_bytes(b))),
        ValueType::F32 => reader.fixed().map(|b| Value::F32(f32::from_le_bytes(b))),
        ValueType::U64 => reader.u64().map(Value::U64),
        ValueType::I64 => reader.fixed().map(|b| Value::I64(i64::from_le_bytes(b))),
        ValueType::F64 => reader.fixed().map(|b| Value::F64(f64::from_le_bytes(b))),
        ValueType::Bool => match reader.u8() {
            Ok(0) => Ok(Value::Bool(false)),
            Ok(1) => Ok(Value::Bool(true)),
            Ok(value) => return Err(skip::invalid_bool(key, value, offset)),
            Err(shortage) => Err(shortage),
        },
        ValueType::String => reader.string().map(|bytes| Value::String(bytes.into())),
    };
    value.map_err(skip::value_of(key))
}

/// The reason why a [`Value`] is not of the requested type.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// It is of another type.
    Type,
    /// It is an integer that does not fit.
    Range(i128),
    /// It is a string that is not UTF-8.
    Utf8,
}

mod sealed {
    pub trait Sealed {}
}

/// Types that [`Metadata::require`] and [`Metadata::optional`] can return.
///
/// * Integers (`u8` to `u64`, `i8` to `i64`) accept every integer type in the file if the value fits:
///   writers use both `u32` and `u64`, and the specification asks readers to accept both. A value that
///   does not fit is [`Error::OutOfRange`]; it is never truncated.
/// * `f32` accepts `f32` only; `f64` accepts `f64` and `f32`. Integers are not accepted as floats.
/// * `bool`, `&str` and [`Text`] accept their own type only. A string that is not UTF-8 is
///   [`Error::Malformed`] as `&str`, and is accepted as [`Text`].
/// * [`Array`] accepts any array; [`Elements<T>`](Elements), [`Strings`] and [`ByteStrings`]
///   accept arrays of exactly that element type.
pub trait FromValue<'a>: Sized + sealed::Sealed {
    #[doc(hidden)]
    const NAME: &'static str;
    #[doc(hidden)]
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch>;
}

macro_rules! integers {
    ($( $rust:ty )+) => { $(
        impl sealed::Sealed for $rust {}
        impl FromValue<'_> for $rust {
            const NAME: &'static str = stringify!($rust);
            fn from_value(value: Value<'_>) -> Result<Self, Mismatch> {
                let value = value.as_integer().ok_or(Mismatch::Type)?;
                Self::try_from(value).map_err(|_| Mismatch::Range(value))
            }
        }
    )+ };
}

integers! { u8 i8 u16 i16 u32 i32 u64 i64 }

impl sealed::Sealed for f32 {}
impl FromValue<'_> for f32 {
    const NAME: &'static str = "f32";
    fn from_value(value: Value<'_>) -> Result<Self, Mismatch> {
        match value {
            Value::F32(v) => Ok(v),
            _ => Err(Mismatch::Type),
        }
    }
}

impl sealed::Sealed for f64 {}
impl FromValue<'_> for f64 {
    const NAME: &'static str = "f64";
    fn from_value(value: Value<'_>) -> Result<Self, Mismatch> {
        match value {
            Value::F64(v) => Ok(v),
            Value::F32(v) => Ok(v.into()),
            _ => Err(Mismatch::Type),
        }
    }
}

impl sealed::Sealed for bool {}
impl FromValue<'_> for bool {
    const NAME: &'static str = "bool";
    fn from_value(value: Value<'_>) -> Result<Self, Mismatch> {
        match value {
            Value::Bool(v) => Ok(v),
            _ => Err(Mismatch::Type),
        }
    }
}

impl sealed::Sealed for &str {}
impl<'a> FromValue<'a> for &'a str {
    const NAME: &'static str = "string";
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch> {
        value.as_text().ok_or(Mismatch::Type)?.as_str().map_err(|_| Mismatch::Utf8)
    }
}

impl sealed::Sealed for Text<'_> {}
impl<'a> FromValue<'a> for Text<'a> {
    const NAME: &'static str = "string";
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch> {
        value.as_text().ok_or(Mismatch::Type)
    }
}

impl sealed::Sealed for Array<'_> {}
impl<'a> FromValue<'a> for Array<'a> {
    const NAME: &'static str = "array";
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch> {
        value.as_array().ok_or(Mismatch::Type)
    }
}

impl<T> sealed::Sealed for Elements<'_, T> {}
impl<'a, T: Element> FromValue<'a> for Elements<'a, T> {
    const NAME: &'static str = T::TYPE.array_name();
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch> {
        value.as_array().and_then(|array| array.iter()).ok_or(Mismatch::Type)
    }
}

impl sealed::Sealed for Strings<'_> {}
impl<'a> FromValue<'a> for Strings<'a> {
    const NAME: &'static str = ValueType::String.array_name();
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch> {
        value.as_array().and_then(|array| array.as_strings()).ok_or(Mismatch::Type)
    }
}

impl sealed::Sealed for ByteStrings<'_> {}
impl<'a> FromValue<'a> for ByteStrings<'a> {
    const NAME: &'static str = ValueType::String.array_name();
    fn from_value(value: Value<'a>) -> Result<Self, Mismatch> {
        value.as_array().and_then(|array| array.as_byte_strings()).ok_or(Mismatch::Type)
    }
}
