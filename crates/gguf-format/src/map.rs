//! Maps files: the only unsafe code of this crate.

use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::byte_source::{ByteSource, OpenFile};
use crate::error::Error;
use crate::file::GgufFile;
use crate::header::{HeaderBytes, HeaderError, OwnedGguf};
use crate::limits::Limits;
use crate::shard::Opener;

impl GgufFile {
    /// Opens a model and maps its files, so that [`data`](Self::data) returns tensor data without
    /// copying.
    ///
    /// # Safety
    ///
    /// While the value or a [header](Self::header) of it lives, no process may change or truncate a file of the
    /// model. Rust assumes that the
    /// mapped bytes are immutable; if they change, the checks of the parser no longer hold. If a file is
    /// truncated, an access beyond its new end raises `SIGBUS`, which ends the process. The system does not
    /// enforce this. [`open`](Self::open) has no such requirement.
    ///
    /// # Errors
    ///
    /// Those of [`open_with`](Self::open_with).
    pub unsafe fn map(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, Error> {
        let parse = |source: &OpenFile, limits: &Limits, _| {
            // SAFETY: `open_by` passes only files of the model at `path`. Only the value that it returns, and
            // headers of that value, keep the result. The caller guarantees that these files are not changed or
            // truncated while they live.
            unsafe { map_header(source, limits) }
        };
        let opener = Opener { open: &|path| OpenFile::open(path), parse: &parse };
        Self::open_by(path.as_ref(), limits, &opener)
    }
}

/// Maps a file and parses its header.
///
/// # Safety
///
/// The file must not be changed or truncated while the result lives.
unsafe fn map_header(source: &OpenFile, limits: &Limits) -> Result<OwnedGguf, HeaderError> {
    // SAFETY: the caller guarantees what `Mmap::map` requires: the file does not change while the
    // mapping lives, which is as long as the result.
    let map = unsafe { Mmap::map(source.file()) }.map_err(HeaderError::Io)?;
    if map.len() as u64 != source.byte_len() {
        let error = io::Error::other("the file's length changed while it was opened");
        return Err(HeaderError::Io(error));
    }
    OwnedGguf::parse(HeaderBytes::Mapped(map), source.byte_len(), limits)
        .map_err(|(_, error)| HeaderError::Gguf(error))
}
