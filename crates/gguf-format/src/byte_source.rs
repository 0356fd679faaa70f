//! Sources from which the bytes of a model are read.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A source of bytes with a length and a name that can be read at any offset: a file, an object in a store, or
/// memory.
///
/// [`OpenFile`] is the source that reads a file of the file system.
pub trait ByteSource {
    /// Returns the name in messages. For a file, it is the path. The shards of a split model are found by their
    /// names: see [`GgufFile::open_from`](crate::GgufFile::open_from).
    fn name(&self) -> &Path;

    /// Returns the length in bytes. It must not change.
    fn byte_len(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the source ends before the buffer is full, and
    /// any other error if the bytes cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl<S: ByteSource + ?Sized> ByteSource for Box<S> {
    fn name(&self) -> &Path {
        (**self).name()
    }

    fn byte_len(&self) -> u64 {
        (**self).byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct OpenFile {
    path: PathBuf,
    file: File,
    opened_as: Metadata,
}

impl OpenFile {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// The error of the operating system;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        // Check this before opening, because opening a pipe blocks until its other end is opened.
        check_regular(&std::fs::metadata(&path)?)?;
        Self::from_file(File::open(&path)?, path)
    }

    /// Takes a file that is already open for reading. `path` is its name in messages, and the place where the
    /// other shards of a split model are looked for.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_file(file: File, path: impl Into<PathBuf>) -> io::Result<Self> {
        let opened_as = file.metadata()?;
        check_regular(&opened_as)?;
        Ok(Self { path: path.into(), file, opened_as })
    }

    /// Returns the path with which the file was opened, or that was given with it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open file. Use positioned reads: the position of its cursor is not defined.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Returns the metadata of the file when it was opened, before anything was read. If they differ later, the
    /// file was changed.
    #[must_use]
    pub const fn opened_as(&self) -> &Metadata {
        &self.opened_as
    }
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

impl ByteSource for OpenFile {
    fn name(&self) -> &Path {
        &self.path
    }

    fn byte_len(&self) -> u64 {
        self.opened_as.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
