//! Arrays in the metadata. Their elements are decoded when they are read.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;

use crate::error::{Error, Item, MalformedKind};
use crate::reader::Reader;
use crate::skip::{self, Extent};
use crate::value_type::ValueType;

/// An array in the metadata, as a range of the file's bytes. Parsing has checked that the file contains all
/// elements.
///
/// A copy of an `Array` is a copy of a reference. Elements are unaligned and little-endian, as in the
/// file, and are decoded when they are read. A vocabulary is never copied.
///
/// Parsing checks that every element is inside the file and that booleans are 0 or 1. It does not check
/// the text of strings: [`as_strings`](Self::as_strings) checks each string when it is read.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a>(Extent<'a>);

impl<'a> From<Extent<'a>> for Array<'a> {
    fn from(extent: Extent<'a>) -> Self {
        Self(extent)
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("element_type", &self.0.element_type)
            .field("len", &self.0.len)
            .field("offset", &self.0.offset)
            .finish_non_exhaustive()
    }
}

impl<'a> Array<'a> {
    /// Returns the type of every element.
    #[must_use]
    pub const fn element_type(&self) -> ValueType {
        self.0.element_type
    }

    /// Returns the number of elements. If arrays are nested, those of the outermost level.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Returns the elements as they are in the file: numbers are little-endian and unaligned, strings and
    /// nested arrays follow their lengths.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0.payload
    }

    /// Returns the offset of [`as_bytes`](Self::as_bytes) from the start of the file, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Returns the numbers or booleans, or `None` if the elements have another type than `T`.
    ///
    /// ```
    /// # use gguf_format::{Array, Value};
    /// fn sum(array: Array<'_>) -> Option<f32> {
    ///     Some(array.iter::<f32>()?.sum())
    /// }
    /// ```
    #[must_use]
    pub fn iter<T: Element>(&self) -> Option<Elements<'a, T>> {
        (self.0.element_type == T::TYPE)
            .then_some(Elements { rest: self.0.payload, element: PhantomData })
    }

    /// Returns the strings, or `None` if the elements are not strings. Each string is checked to be UTF-8 when
    /// it is reached.
    #[must_use]
    pub fn as_strings(&self) -> Option<Strings<'a>> {
        Some(Strings { raw: self.as_byte_strings()?, index: 0 })
    }

    /// Returns the strings as bytes, unchecked, because some vocabularies hold tokens that are not UTF-8.
    /// `None` if the elements are not strings.
    #[must_use]
    pub fn as_byte_strings(&self) -> Option<ByteStrings<'a>> {
        (self.0.element_type == ValueType::String).then_some(ByteStrings {
            rest: self.0.payload,
            left: self.0.len,
            offset: self.0.offset,
        })
    }

    /// Returns the inner arrays, or `None` if the elements are not arrays.
    #[must_use]
    pub fn as_arrays(&self) -> Option<Arrays<'a>> {
        (self.0.element_type == ValueType::Array).then_some(Arrays {
            rest: self.0.payload,
            left: self.0.len,
            offset: self.0.offset,
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// An array element of fixed size: `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, `bool`.
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
        // Parsing has checked the array, so neither `?` ends the iterator early.
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
/// An element that is not UTF-8 is [`Error::Malformed`] with its offset and position. The iterator
/// continues after it.
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
        let mut reader = Reader::over_parsed_bytes(self.rest);
        // Parsing has checked the array, so no `?` ends the iterator early.
        let inner = skip::array(&mut reader, "".into(), u64::MAX).ok()?;
        let taken = reader.offset();
        self.rest = self.rest.get(usize::try_from(taken).ok()?..)?;
        let offset = self.offset.saturating_add(inner.offset);
        self.offset = self.offset.saturating_add(taken);
        Some(Array(Extent { offset, ..inner }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Arrays<'_> {}
impl FusedIterator for Arrays<'_> {}
