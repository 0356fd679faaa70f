//! Mapping of files: the only unsafe code of this crate.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::error::Error;
use crate::file::{GgufFile, HeaderBytes, OwnedGguf, ParseFileError};
use crate::limits::Limits;

impl GgufFile {
    /// Opens a model and maps its files, so that [`data`](Self::data) is there without copying.
    ///
    /// # Safety
    ///
    /// As long as the value lives, nobody may change or truncate any file of the model, in this
    /// process or another. Rust takes the mapped bytes for immutable, and bytes that change break
    /// what was proven of them; access to pages beyond a new, shorter end raises `SIGBUS`, which
    /// kills the process. The system does not enforce this; [`open`](Self::open) does not need it.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub unsafe fn map(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, Error> {
        Self::open_by(path.as_ref(), limits, &|file, len, limits, _| {
            // SAFETY: `open_by` passes only files of the model at `path`, and keeps what it gets
            // only in the value it returns; for those and as long, the caller has promised that
            // nobody changes or truncates them.
            unsafe { map_header(file, len, limits) }
        })
    }
}

/// Maps a file of `len` bytes and parses it.
///
/// # Safety
///
/// Nobody may change or truncate the file as long as the result lives.
unsafe fn map_header(file: &File, len: u64, limits: &Limits) -> Result<OwnedGguf, ParseFileError> {
    // SAFETY: the caller promises what `Mmap::map` asks for: that the file behind the mapping does
    // not change as long as the mapping lives, which is as long as the result.
    let map = unsafe { Mmap::map(file) }.map_err(ParseFileError::Io)?;
    if map.len() as u64 != len {
        let error = io::Error::other("the file's length changed while it was opened");
        return Err(ParseFileError::Io(error));
    }
    OwnedGguf::parse(HeaderBytes::Mapped(map), len, limits)
        .map_err(|(_, error)| ParseFileError::Gguf(error))
}
