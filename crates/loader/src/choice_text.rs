//! Conversions between option values and text, for command lines and configuration files.

use crate::options::{DeviceChoice, IoChoice, Verify};
use std::fmt;
use std::str::FromStr;

/// The error for a text that is not a value of the option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is unknown: expected {expected}", gguf_format::escape(.found).shortened(40))]
pub struct ParseChoiceError {
    found: String,
    expected: &'static str,
}

/// Implements the conversions between an option's values and their words. Both directions use the same list.
macro_rules! words {
    ($type:ident, $expected:literal: $( $variant:ident = $word:literal ),+) => {
        impl $type {
            /// Every value, in the order of help texts.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// Returns the word for this value.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = ParseChoiceError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let choice = Self::ALL.iter().find(|choice| choice.name() == text);
                choice.copied().ok_or_else(|| unknown(text, $expected))
            }
        }
    };
}

words!(IoChoice, "auto, mmap, read or direct":
    Auto = "auto", Mmap = "mmap", Read = "read", Direct = "direct");
words!(Verify, "residency, checksum or readback":
    Residency = "residency", Checksum = "checksum", Readback = "readback");

/// Writes `auto`, `host` or, for example, `cuda:0`.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Host => f.pad("host"),
            Self::Cuda(ordinal) => f.pad(&format!("cuda:{ordinal}")),
        }
    }
}

/// Parses the words of [`Display`](fmt::Display), and `cuda` for the first GPU.
impl FromStr for DeviceChoice {
    type Err = ParseChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ordinal = |text: &str| {
            let ordinal = text.strip_prefix("cuda:")?.parse::<u16>().ok()?;
            Some(Self::Cuda(ordinal.into()))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Host),
            "cuda" => Ok(Self::Cuda(0)),
            _ => ordinal(text).ok_or_else(|| unknown(text, "auto, host, cuda or cuda:N")),
        }
    }
}

fn unknown(text: &str, expected: &'static str) -> ParseChoiceError {
    ParseChoiceError { found: text.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        assert!(IoChoice::ALL.iter().all(|io| io.to_string().parse() == Ok(*io)));
        assert!(Verify::ALL.iter().all(|verify| verify.to_string().parse() == Ok(*verify)));
        assert!(Verify::ALL.is_sorted());
        let gpus = [0, 1, 65_535].map(DeviceChoice::Cuda);
        for device in gpus.into_iter().chain([DeviceChoice::Auto, DeviceChoice::Host]) {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(
            format!("{:>8}|{:<6}|", DeviceChoice::Cuda(1), IoChoice::Read),
            "  cuda:1|read  |"
        );
        let defaults = (IoChoice::default().name(), Verify::default().name());
        assert_eq!(defaults, ("auto", "residency"));
    }

    #[test]
    fn the_error_for_an_unknown_word_lists_the_known_words() {
        let io = "Mmap\u{1b}".parse::<IoChoice>().unwrap_err().to_string();
        assert_eq!(io, r#""Mmap\u{1b}" is unknown: expected auto, mmap, read or direct"#);
        let verify = "".parse::<Verify>().unwrap_err().to_string();
        assert_eq!(verify, r#""" is unknown: expected residency, checksum or readback"#);
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:65536", "cuda:1 ", "cuda: 1"] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.ends_with("is unknown: expected auto, host, cuda or cuda:N"), "{error}");
        }
    }
}
