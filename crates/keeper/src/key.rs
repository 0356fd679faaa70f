//! Names of entries.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder};

/// The name of an entry: 1 to 150 letters, digits, dots, underscores and hyphens of ASCII.
///
/// It fits into the names of systemd's descriptor store, and needs no quotation in a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A text that is not a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to 150 letters, digits, dots, underscores and hyphens; this one is {0:?}")]
#[non_exhaustive]
pub struct InvalidKey(pub String);

impl Key {
    /// The length of the longest key in bytes.
    pub const MAX_LEN: usize = 150;

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text))
        } else {
            Err(InvalidKey(text))
        }
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<C> Encode<C> for Key {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Key {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let text = decoder.str()?;
        text.parse().map_err(minicbor::decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn a_key_is_printable_and_short() {
        let longest = "k".repeat(Key::MAX_LEN);
        for text in ["8d1f0c3b52aa9e70-f16-host-1of1", "GPU_0.a", ".", &longest] {
            assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
        }
        let too_long = "k".repeat(Key::MAX_LEN + 1);
        for text in ["", "a:b", "a b", "a/b", "ä", "a\n", "a\0", &too_long] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }
}
