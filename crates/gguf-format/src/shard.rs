//! One file of a model: its source and its header.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::alignment::padded;
use crate::byte_source::{ByteSource, OpenFile};
use crate::error::{Error, ShardKind};
use crate::gguf::Gguf;
use crate::header::{BYTES, GgufHeader, HeaderError, OwnedGguf};
use crate::limits::Limits;
use crate::magic;
use crate::split::SplitKeys;
use crate::warning::{self, Warning};

/// One file of a model, open: all of it, or one shard of several.
pub struct Shard<S = OpenFile> {
    source: S,
    /// The catalogue of the model borrows from the header.
    header: Arc<OwnedGguf>,
    warnings: Vec<Warning>,
}

/// The functions that open a source and read its header.
pub(crate) struct Opener<'f, S> {
    /// Opens the source of a name.
    pub(crate) open: &'f dyn Fn(&Path) -> io::Result<S>,
    /// Reads or maps a header. The last argument is the number of bytes that are read first.
    pub(crate) parse: &'f dyn Fn(&S, &Limits, u64) -> Result<OwnedGguf, HeaderError>,
}

impl<S: ByteSource> Opener<'_, S> {
    /// Opens the source of a name and reads its header.
    pub(crate) fn open(
        &self,
        name: &Path,
        limits: &Limits,
        first_read: u64,
    ) -> Result<Shard<S>, Error> {
        let source = (self.open)(name).map_err(|error| Error::of_io(name, error))?;
        let name = source.name();
        let unread = |error| Error::of_io(name, error);
        let header = (self.parse)(&source, limits, first_read).map_err(|error| match error {
            HeaderError::Io(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                let bytes = source.byte_len().min(limits.max_header_bytes);
                Error::OutOfMemory { what: BYTES, bytes, left: None }.in_file(name)
            }
            HeaderError::Io(error) => unread(error),
            HeaderError::Gguf(error) => error.in_file(name),
        })?;
        let warnings = warning::of_source(&source, header.gguf()).map_err(unread)?;
        Ok(Shard { source, header: Arc::new(header), warnings })
    }
}

impl<S: ByteSource> Shard<S> {
    /// Returns the path with which the file was opened. For a source that is not a file, its
    /// [name](ByteSource::name).
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.name()
    }

    /// Returns the source. Ranges of tensors are offsets in it.
    #[must_use]
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// Returns the length in bytes when it was opened. All ranges were checked against this length: if the
    /// file is shorter later, reads fail and do not return wrong bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an empty file is no shard")]
    pub fn len(&self) -> u64 {
        self.source.byte_len()
    }

    /// Returns the start of the data section, in bytes from the start of the file.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.gguf().data_offset()
    }

    /// Returns the header of this file alone.
    #[must_use]
    pub fn gguf(&self) -> &Gguf<'_> {
        self.header.gguf()
    }

    /// Returns the header of this file alone. It stays valid when the file is closed.
    #[must_use]
    pub fn to_header(&self) -> GgufHeader {
        GgufHeader::new(Arc::clone(&self.header))
    }

    /// Returns the warnings about this file. It can be read, but may be wrong.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the whole file, if it was [mapped](crate::GgufFile::map).
    #[must_use]
    pub fn mapped(&self) -> Option<&[u8]> {
        self.header.mapped()
    }

    /// Returns the header, for the catalogue that borrows from it.
    pub(crate) const fn header(&self) -> &Arc<OwnedGguf> {
        &self.header
    }

    /// Fails if another GGUF file follows in this file, which is a shard by its keys: joined shards are not a
    /// model.
    pub(crate) fn check_not_joined(&self, keys: SplitKeys) -> Result<(), Error> {
        let end = self.gguf().data_end();
        for at in [end, padded(end, self.gguf().alignment())] {
            let mut magic = [0; 4];
            if at.saturating_add(magic.len() as u64) > self.len() {
                continue;
            }
            let read = self.source.read_exact_at(&mut magic, at);
            read.map_err(|error| Error::of_io(self.path(), error))?;
            if magic == magic::MAGIC {
                let no = keys.no.saturating_add(1);
                let kind = ShardKind::Joined { no, count: keys.count, at };
                return Err(Error::Shard { path: self.path().to_owned(), kind });
            }
        }
        Ok(())
    }
}

impl Shard {
    /// Returns the open file. Ranges of tensors are offsets in it. Use positioned reads: the position of its
    /// cursor is not defined.
    #[must_use]
    pub const fn file(&self) -> &File {
        self.source.file()
    }

    /// Returns the metadata of the file when it was opened, before anything was read. If they differ later, the
    /// file was changed.
    #[must_use]
    pub const fn opened_as(&self) -> &Metadata {
        self.source.opened_as()
    }
}

impl<S: ByteSource> fmt::Debug for Shard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("path", &self.path())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
