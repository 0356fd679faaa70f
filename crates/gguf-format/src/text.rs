//! Text from a file, which need not be UTF-8.

use std::fmt;
use std::str::Utf8Error;

use crate::escape::{escape, quoted_in_full};

/// A key or string from a file. It should be UTF-8, but is not in every file.
///
/// Displays [escaped](crate::escape()), so that any text can be printed.
///
/// ```
/// # use gguf_format::Text;
/// let author = Text::from(&b"Andr\xe9"[..]);
/// assert!(author.as_str().is_err());
/// assert_eq!(author.to_string(), "Andr\\xe9");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// Returns the bytes, as they are in the file.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns the text.
    ///
    /// # Errors
    ///
    /// If the bytes are not UTF-8.
    pub const fn as_str(self) -> Result<&'a str, Utf8Error> {
        std::str::from_utf8(self.0)
    }
}

impl<'a> From<&'a [u8]> for Text<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self).fmt(f)
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted_in_full(self).fmt(f)
    }
}
