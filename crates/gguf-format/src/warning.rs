//! What may be wrong with a file that is read all the same.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::path_text;
use crate::escape::quoted;
use crate::gguf::{Gguf, padded};

/// Places of padding between tensors that are looked at in one file. Real files have none or few.
const MAX_PLACES: usize = 4096;

/// Bytes of padding that are looked at in one file.
const MAX_BYTES: u64 = 1 << 20;

/// Bytes of padding that are read at once.
const PIECE: usize = 4096;

/// Warnings that are kept of one file.
const MAX_WARNINGS: usize = 16;

/// Something about a file that a user should know: it is read, and may be another than it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Padding between two tensors, or after the last one, is not zero. No tool writes it so.
    #[non_exhaustive]
    Padding {
        /// The file.
        path: PathBuf,
        /// The tensor before the padding.
        tensor: String,
        /// Where it ends, in bytes from the start of the file.
        end: u64,
        /// Where the first byte is that is not zero.
        at: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// The file goes on after its last tensor.
    #[non_exhaustive]
    TrailingData {
        /// The file.
        path: PathBuf,
        /// The last tensor, where there is one.
        tensor: Option<String>,
        /// Where it ends with its padding, in bytes from the start of the file.
        end: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
}

const PADDING: (&str, &str, &str) = (
    "GGUF_NONZERO_PADDING",
    "The padding between two tensors, or after the last one, is not zero.",
    "compare the file's checksum with the publisher's: it may be damaged, or hold something that does \
     not belong to the model",
);
const TRAILING_DATA: (&str, &str, &str) = (
    "GGUF_TRAILING_DATA",
    "The file goes on after its last tensor.",
    "compare the file's size and checksum with the publisher's: the type of the last tensor, or the \
     number of tensors, may be damaged, or something was appended",
);

impl Warning {
    /// Every code that [`code`](Self::code) can answer, with what it means and what can be done. Codes
    /// are only ever added.
    pub const ALL: &'static [(&'static str, &'static str, &'static str)] =
        &[PADDING, TRAILING_DATA];

    const fn facts(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Padding { .. } => PADDING,
            Self::TrailingData { .. } => TRAILING_DATA,
        }
    }

    /// A stable name for the kind of warning.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.facts().0
    }

    /// What the user can do about it.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.facts().2
    }
}

/// One line; text from the file is escaped.
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
            Self::TrailingData { path, tensor, end, file_len } => {
                let more = file_len.saturating_sub(*end);
                write!(f, "{}: {more} bytes follow the last tensor: ", path_text(path))?;
                match tensor {
                    Some(tensor) => write!(f, "{} ends at byte {end}", quoted(tensor))?,
                    None => write!(f, "there is none, the data starts at byte {end}")?,
                }
                write!(f, ", the file at byte {file_len}")
            }
        }
    }
}

/// What may be wrong with an open file, of which `gguf` is the header. Reads the padding between tensors,
/// where there is some: at most 1 MiB in at most 4096 places.
pub(crate) fn of_file(path: &Path, file: &File, gguf: &Gguf<'_>) -> io::Result<Vec<Warning>> {
    let mut warnings = nonzero_padding(path, file, gguf)?;
    if gguf.trailing_bytes() != 0 {
        let last = gguf.tensors().iter().rev().find(|tensor| !tensor.range().is_empty());
        warnings.push(Warning::TrailingData {
            path: path.to_owned(),
            tensor: last.map(|tensor| tensor.name().to_owned()),
            end: padded(gguf.data_end(), gguf.alignment()),
            file_len: gguf.file_len(),
        });
    }
    Ok(warnings)
}

fn nonzero_padding(path: &Path, file: &File, gguf: &Gguf<'_>) -> io::Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    let (mut places, mut left) = (0_usize, MAX_BYTES);
    for tensor in gguf.tensors() {
        let start = tensor.range().end;
        let end = padded(start, gguf.alignment()).min(gguf.file_len());
        let len = end.saturating_sub(start).min(left);
        if len == 0 || tensor.range().is_empty() {
            continue;
        }
        if places == MAX_PLACES || warnings.len() == MAX_WARNINGS {
            break;
        }
        places = places.saturating_add(1);
        left = left.saturating_sub(len);
        if let Some(at) = first_nonzero(file, start..start.saturating_add(len))? {
            warnings.push(Warning::Padding {
                path: path.to_owned(),
                tensor: tensor.name().to_owned(),
                end: start,
                at,
                file_len: gguf.file_len(),
            });
        }
    }
    Ok(warnings)
}

/// Where the first byte of a range of the file is that is not zero.
fn first_nonzero(file: &File, range: Range<u64>) -> io::Result<Option<u64>> {
    let mut buffer = [0; PIECE];
    for start in range.clone().step_by(PIECE) {
        let left = usize::try_from(range.end.saturating_sub(start)).unwrap_or(PIECE);
        let piece = buffer.get_mut(..left.min(PIECE)).unwrap_or_default();
        file.read_exact_at(piece, start)?;
        if let Some(at) = piece.iter().position(|&byte| byte != 0) {
            return Ok(Some(start.saturating_add(at as u64)));
        }
    }
    Ok(None)
}
