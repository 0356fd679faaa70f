//! Metadata values: typed, and arrays that stay undecoded until they are asked.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;

use crate::error::{Error, Item, MalformedKind};
use crate::escape::quoted_in_full;
use crate::reader::Reader;
use crate::skip;
use crate::text::Text;

/// One table for the value types: variant, number, name, name of an array of it, size in bytes
/// (0 where it varies).
macro_rules! value_types {
    ($( $(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $size:literal; )+) => {
        /// The type of a metadata value or of an array's elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ValueType {
            $( $(#[$doc])* $name, )+
        }

        impl ValueType {
            /// Every value type, in the order of its number.
            pub const ALL: &'static [Self] = &[$( Self::$name, )+];

            /// The type of this number, or `None` where GGUF has none.
            #[must_use]
            pub const fn from_id(id: u32) -> Option<Self> {
                match id { $( $id => Some(Self::$name), )+ _ => None }
            }

            /// The number that stands for this type in a file.
            #[must_use]
            pub const fn id(self) -> u32 {
                match self { $( Self::$name => $id, )+ }
            }

            /// `u32`, `string`, `array`, ...
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }

            /// `array of u32`, ...
            #[must_use]
            pub const fn array_name(self) -> &'static str {
                match self { $( Self::$name => concat!("array of ", $text), )+ }
            }

            /// Bytes of one value, or `None` for strings and arrays.
            #[must_use]
            pub const fn size(self) -> Option<u64> {
                match self { $( Self::$name => if $size == 0 { None } else { Some($size) }, )+ }
            }
        }
    };
}

value_types! {
    /// Unsigned, 8 bits.
    U8 = 0, "u8", 1;
    /// Signed, 8 bits.
    I8 = 1, "i8", 1;
    /// Unsigned, 16 bits.
    U16 = 2, "u16", 2;
    /// Signed, 16 bits.
    I16 = 3, "i16", 2;
    /// Unsigned, 32 bits.
    U32 = 4, "u32", 4;
    /// Signed, 32 bits.
    I32 = 5, "i32", 4;
    /// IEEE single.
    F32 = 6, "f32", 4;
    /// One byte, 0 or 1.
    Bool = 7, "bool", 1;
    /// Bytes with their number. They should be UTF-8.
    String = 8, "string", 0;
    /// Elements of one type with their count.
    Array = 9, "array", 0;
    /// Unsigned, 64 bits.
    U64 = 10, "u64", 8;
    /// Signed, 64 bits.
    I64 = 11, "i64", 8;
    /// IEEE double.
    F64 = 12, "f64", 8;
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The value of a key, borrowed from the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is the type it is named after")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text<'a>),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The type in the file.
    #[must_use]
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The type in words, with that of an array's elements: `u32`, `array of string`.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Array(array) => array.element_type().array_name(),
            other => other.value_type().name(),
        }
    }

    /// The value of any of the eight integer types.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U64(v) => Some(v.into()),
            Self::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The string, where it is one, whether or not it is UTF-8.
    #[must_use]
    pub const fn as_text(&self) -> Option<Text<'a>> {
        match self {
            Self::String(text) => Some(*text),
            _ => None,
        }
    }

    /// The string, where it is one and is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        self.as_text()?.as_str().ok()
    }

    /// The array, where it is one.
    #[must_use]
    pub const fn as_array(&self) -> Option<Array<'a>> {
        match self {
            Self::Array(array) => Some(*array),
            _ => None,
        }
    }
}

/// On one line, escaped: `"text"`, `32`, `array of 32064 string`.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::F32(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::String(v) => quoted_in_full(v).fmt(f),
            Self::Array(v) => write!(f, "array of {} {}", v.len(), v.element_type()),
            Self::U64(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::F64(v) => v.fmt(f),
        }
    }
}

/// An array in the metadata: its place in the file's bytes, proven to hold what it announces.
///
/// Copying one copies a reference. Elements are decoded when they are asked for, unaligned and
/// little-endian as they lie in the file; no vocabulary is ever copied.
///
/// Parsing proves that every element is inside the file and that booleans are 0 or 1. It does not
/// look at the text of strings: [`as_strings`](Self::as_strings) does that one by one.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(crate) element_type: ValueType,
    pub(crate) len: usize,
    /// The elements as they lie in the file.
    pub(crate) payload: &'a [u8],
    /// Where `payload` starts in the file.
    pub(crate) offset: u64,
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("element_type", &self.element_type)
            .field("len", &self.len)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl<'a> Array<'a> {
    /// The type of every element.
    #[must_use]
    pub const fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// Number of elements (of the outermost level, where arrays are nested).
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as they lie in the file: numbers little-endian and unaligned, strings and
    /// nested arrays with their lengths in between.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.payload
    }

    /// Offset of [`as_bytes`](Self::as_bytes) from the start of the file, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The numbers or booleans, or `None` where the elements are of another type than `T`.
    ///
    /// ```
    /// # use gguf_format::{Array, Value};
    /// fn sum(array: Array<'_>) -> Option<f32> {
    ///     Some(array.iter::<f32>()?.sum())
    /// }
    /// ```
    #[must_use]
    pub fn iter<T: Element>(&self) -> Option<Elements<'a, T>> {
        (self.element_type == T::TYPE)
            .then_some(Elements { rest: self.payload, element: PhantomData })
    }

    /// The strings, each checked to be UTF-8 when it is reached, or `None` where the elements are
    /// no strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<Strings<'a>> {
        Some(Strings { raw: self.as_byte_strings()?, index: 0 })
    }

    /// The strings as bytes, unchecked: some vocabularies hold tokens that are no UTF-8. `None`
    /// where the elements are no strings.
    #[must_use]
    pub fn as_byte_strings(&self) -> Option<ByteStrings<'a>> {
        (self.element_type == ValueType::String).then_some(ByteStrings {
            rest: self.payload,
            left: self.len,
            offset: self.offset,
        })
    }

    /// The inner arrays, or `None` where the elements are no arrays.
    #[must_use]
    pub fn as_arrays(&self) -> Option<Arrays<'a>> {
        (self.element_type == ValueType::Array).then_some(Arrays {
            rest: self.payload,
            left: self.len,
            offset: self.offset,
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A fixed-size element of an array: `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, `bool`.
pub trait Element: Copy + sealed::Sealed {
    /// The type in the file.
    const TYPE: ValueType;
    #[doc(hidden)]
    fn split_first(bytes: &[u8]) -> Option<(Self, &[u8])>;
    #[doc(hidden)]
    const SIZE: usize;
}

macro_rules! elements {
    ($( $rust:ty => $variant:ident, |$bytes:ident| $decode:expr; )+) => {
        $(
            impl sealed::Sealed for $rust {}
            impl Element for $rust {
                const TYPE: ValueType = ValueType::$variant;
                const SIZE: usize = size_of::<$rust>();
                #[inline]
                fn split_first(bytes: &[u8]) -> Option<(Self, &[u8])> {
                    let ($bytes, rest) = bytes.split_first_chunk::<{ size_of::<$rust>() }>()?;
                    let $bytes = *$bytes;
                    Some(($decode, rest))
                }
            }
        )+
    };
}

elements! {
    u8 => U8, |b| Self::from_le_bytes(b);
    i8 => I8, |b| Self::from_le_bytes(b);
    u16 => U16, |b| Self::from_le_bytes(b);
    i16 => I16, |b| Self::from_le_bytes(b);
    u32 => U32, |b| Self::from_le_bytes(b);
    i32 => I32, |b| Self::from_le_bytes(b);
    u64 => U64, |b| Self::from_le_bytes(b);
    i64 => I64, |b| Self::from_le_bytes(b);
    f32 => F32, |b| Self::from_le_bytes(b);
    f64 => F64, |b| Self::from_le_bytes(b);
    bool => Bool, |b| b != [0];
}

/// Iterator over the numbers of an [`Array`], see [`Array::iter`].
#[derive(Debug, Clone)]
pub struct Elements<'a, T> {
    rest: &'a [u8],
    element: PhantomData<T>,
}

impl<T: Element> Iterator for Elements<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let (element, rest) = T::split_first(self.rest)?;
        self.rest = rest;
        Some(element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.rest.len().checked_div(T::SIZE).unwrap_or(0);
        (left, Some(left))
    }

    fn nth(&mut self, n: usize) -> Option<T> {
        let skipped = n.checked_mul(T::SIZE).and_then(|bytes| self.rest.get(bytes..));
        self.rest = skipped.unwrap_or_default();
        self.next()
    }
}

impl<T: Element> ExactSizeIterator for Elements<'_, T> {}
impl<T: Element> FusedIterator for Elements<'_, T> {}

/// Iterator over the strings of an [`Array`] as bytes, see [`Array::as_byte_strings`].
#[derive(Debug, Clone)]
pub struct ByteStrings<'a> {
    rest: &'a [u8],
    left: usize,
    /// Where `rest` starts in the file.
    offset: u64,
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // The array was proven when the file was parsed, so neither question ends it early.
        let (len, tail) = self.rest.split_first_chunk::<8>()?;
        let (string, rest) =
            tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        self.offset = self.offset.saturating_add(8).saturating_add(string.len() as u64);
        self.rest = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ByteStrings<'_> {}
impl FusedIterator for ByteStrings<'_> {}

/// Iterator over the strings of an [`Array`], see [`Array::as_strings`].
///
/// An element that is no UTF-8 is [`Error::Malformed`] with its offset and position; the iterator
/// goes on after it.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    raw: ByteStrings<'a>,
    index: u64,
}

impl<'a> Iterator for Strings<'a> {
    type Item = Result<&'a str, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.raw.offset.saturating_add(8);
        let bytes = self.raw.next()?;
        let index = self.index;
        self.index = index.saturating_add(1);
        Some(std::str::from_utf8(bytes).map_err(|_| Error::Malformed {
            offset,
            kind: MalformedKind::InvalidUtf8 { item: Item::ArrayElement { index } },
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.raw.size_hint()
    }
}

impl ExactSizeIterator for Strings<'_> {}
impl FusedIterator for Strings<'_> {}

/// Iterator over the inner arrays of an [`Array`], see [`Array::as_arrays`].
#[derive(Debug, Clone)]
pub struct Arrays<'a> {
    rest: &'a [u8],
    left: usize,
    /// Where `rest` starts in the file.
    offset: u64,
}

impl<'a> Iterator for Arrays<'a> {
    type Item = Array<'a>;

    fn next(&mut self) -> Option<Array<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::over_payload(self.rest);
        // The array was proven when the file was parsed, so no question ends it early.
        let inner = skip::array(&mut reader, "".into(), u64::MAX).ok()?;
        let taken = reader.offset();
        self.rest = self.rest.get(usize::try_from(taken).ok()?..)?;
        let offset = self.offset.saturating_add(inner.offset);
        self.offset = self.offset.saturating_add(taken);
        Some(Array { offset, ..inner })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Arrays<'_> {}
impl FusedIterator for Arrays<'_> {}
