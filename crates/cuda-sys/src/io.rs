//! The methods of reading files.

use std::fmt;
use std::str::FromStr;

/// The method of reading files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Io {
    /// Reads cached pages from the page cache and all other pages past it with `O_DIRECT`, so that the
    /// content of the cache does not change.
    #[default]
    Auto,
    /// Copies from a shared mapping of the file. The first use installs a process-wide `SIGBUS` handler;
    /// without it, a file that is truncated meanwhile would kill the process. The handler passes on every
    /// fault that is not caused by such a copy.
    Mapped,
    /// Reads at given offsets through the page cache.
    Read,
    /// Reads with `O_DIRECT`, past the page cache. If the file system refuses that, reads through the
    /// page cache.
    Direct,
}

impl Io {
    /// Every method, in the order of help texts.
    pub const ALL: &'static [Self] = &[Self::Auto, Self::Mapped, Self::Read, Self::Direct];

    /// Returns the word for this method on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Mapped => "mmap",
            Self::Read => "read",
            Self::Direct => "direct",
        }
    }

    /// Returns its number in C++.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Mapped => 1,
            Self::Direct => 2,
            Self::Auto => 3,
        }
    }
}

/// Writes `auto`, `mmap`, `read` or `direct`.
impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a text that is none of the words for [`Io`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, mmap, read or direct")]
pub struct ParseIoError;

impl FromStr for Io {
    type Err = ParseIoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().find(|io| io.name() == text).copied().ok_or(ParseIoError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let words = Io::ALL.iter().map(Io::to_string).collect::<Vec<_>>();
        assert_eq!(
            format!("expected {}", words.join(", ")).replace(", direct", " or direct"),
            ParseIoError.to_string()
        );
        assert!(words.iter().zip(Io::ALL).all(|(word, io)| word.parse() == Ok(*io)));
        assert_eq!("Mmap".parse::<Io>(), Err(ParseIoError));
    }
}
