//! Warnings about files that can be read.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::alignment::padded;
use crate::byte_source::ByteSource;
use crate::escape::{path_text, quoted};
use crate::gguf::Gguf;

/// The largest number of bytes of padding that are read in one file. Real files have less than 16 KiB.
const MAX_BYTES: u64 = 256 << 20;

/// Bytes of padding that one call reads.
const PIECE: usize = 64 << 10;

/// The largest number of warnings about padding for one file.
const MAX_WARNINGS: usize = 16;

/// A problem with a file that can be read. The file may not be what the user expects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Padding between two tensors, or after the last one, is not zero. No tool writes such padding.
    #[non_exhaustive]
    Padding {
        /// The file.
        path: PathBuf,
        /// The tensor before the padding.
        tensor: String,
        /// Its end, in bytes from the start of the file.
        end: u64,
        /// Position of the first byte that is not zero, in bytes from the start of the file.
        at: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// Some padding was not read, because a limit was reached.
    #[non_exhaustive]
    UncheckedPadding {
        /// The file.
        path: PathBuf,
        /// The first tensor whose padding was not read.
        tensor: String,
        /// Bytes of padding that were read.
        checked_bytes: u64,
    },
    /// Bytes follow the last tensor and its padding.
    #[non_exhaustive]
    TrailingData {
        /// The file.
        path: PathBuf,
        /// The last tensor, if there is one.
        tensor: Option<String>,
        /// Its end, in bytes from the start of the file. Without a tensor, the start of the data section.
        end: u64,
        /// Bytes after it and its padding.
        trailing_bytes: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
}

const PADDING: (&str, &str, &str) = (
    "GGUF_NONZERO_PADDING",
    "The padding between two tensors, or after the last one, is not zero.",
    "compare the file's checksum with the publisher's: the file may be damaged, or may contain data that \
     does not belong to the model",
);
const UNCHECKED_PADDING: (&str, &str, &str) = (
    "GGUF_UNCHECKED_PADDING",
    "Only part of the padding was checked, because there are more than 256 MiB of padding, or 16 places \
     that are not zero.",
    "compare the file's checksum with the publisher's",
);
const TRAILING_DATA: (&str, &str, &str) = (
    "GGUF_TRAILING_DATA",
    "The file continues after its last tensor.",
    "compare the file's size and checksum with the publisher's: the type of the last tensor, or the \
     number of tensors, may be damaged, or data was appended",
);

impl Warning {
    /// Every code that [`code`](Self::code) can return, with its cause and cure. Codes are only added, never
    /// removed.
    pub const ALL: &'static [(&'static str, &'static str, &'static str)] =
        &[PADDING, TRAILING_DATA, UNCHECKED_PADDING];

    const fn facts(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Padding { .. } => PADDING,
            Self::TrailingData { .. } => TRAILING_DATA,
            Self::UncheckedPadding { .. } => UNCHECKED_PADDING,
        }
    }

    /// Returns a stable name for the kind of warning.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.facts().0
    }

    /// Returns the advice to the user.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.facts().2
    }
}

/// Writes one line. Text from the file is escaped.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Padding { path, tensor, end, at, file_len } => write!(
                f,
                "{}: the padding after tensor {} is not zero at byte {at}: the tensor ends at byte \
                 {end}, the file at byte {file_len}",
                path_text(path),
                quoted(tensor)
            ),
            Self::UncheckedPadding { path, tensor, checked_bytes } => write!(
                f,
                "{}: the padding after tensor {} and later tensors was not checked; {checked_bytes} \
                 bytes of padding before it were checked",
                path_text(path),
                quoted(tensor)
            ),
            Self::TrailingData { path, tensor, end, trailing_bytes, file_len } => {
                write!(
                    f,
                    "{}: {trailing_bytes} bytes follow the last tensor and its padding: ",
                    path_text(path)
                )?;
                match tensor {
                    Some(tensor) => write!(f, "{} ends at byte {end}", quoted(tensor))?,
                    None => write!(f, "no tensor has data, the data section starts at byte {end}")?,
                }
                write!(f, ", the file at byte {file_len}")
            }
        }
    }
}

/// Returns the warnings about a source that has the header `gguf`. Reads the padding between tensors, at most
/// 256 MiB.
pub(crate) fn of_source(source: &impl ByteSource, gguf: &Gguf<'_>) -> io::Result<Vec<Warning>> {
    let mut warnings = nonzero_padding(source, gguf)?;
    if gguf.trailing_bytes() != 0 {
        let last = gguf.tensors().iter().rev().find(|tensor| !tensor.range().is_empty());
        warnings.push(Warning::TrailingData {
            path: source.name().to_owned(),
            tensor: last.map(|tensor| tensor.name().to_owned()),
            end: gguf.data_end(),
            trailing_bytes: gguf.trailing_bytes(),
            file_len: gguf.file_len(),
        });
    }
    Ok(warnings)
}

fn nonzero_padding(source: &impl ByteSource, gguf: &Gguf<'_>) -> io::Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    let mut checked_bytes = 0_u64;
    for tensor in gguf.tensors() {
        let start = tensor.range().end;
        let end = padded(start, gguf.alignment()).min(gguf.file_len());
        if tensor.range().is_empty() || start >= end {
            continue;
        }
        let (path, tensor) = (source.name().to_owned(), tensor.name().to_owned());
        let seen_with_this = checked_bytes.saturating_add(end.saturating_sub(start));
        if warnings.len() == MAX_WARNINGS || seen_with_this > MAX_BYTES {
            warnings.push(Warning::UncheckedPadding { path, tensor, checked_bytes });
            break;
        }
        checked_bytes = seen_with_this;
        if let Some(at) = first_nonzero(source, start..end)? {
            let file_len = gguf.file_len();
            warnings.push(Warning::Padding { path, tensor, end: start, at, file_len });
        }
    }
    Ok(warnings)
}

/// Returns the position of the first byte in a range of the source that is not zero.
fn first_nonzero(source: &impl ByteSource, range: Range<u64>) -> io::Result<Option<u64>> {
    let mut buffer = [0; PIECE];
    for start in range.clone().step_by(PIECE) {
        let left = usize::try_from(range.end.saturating_sub(start)).unwrap_or(PIECE);
        let piece = buffer.get_mut(..left.min(PIECE)).unwrap_or_default();
        source.read_exact_at(piece, start)?;
        if let Some(at) = piece.iter().position(|&byte| byte != 0) {
            return Ok(Some(start.saturating_add(at as u64)));
        }
    }
    Ok(None)
}
