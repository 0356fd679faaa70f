//! A model on disk: one file, or all the files of a split model, under one catalogue.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use self_cell::self_cell;

use crate::byte_source::{ByteSource, OpenFile};
use crate::error::{Error, ShardKind};
use crate::gguf::Gguf;
use crate::header::{GgufHeader, OwnedGguf};
use crate::limits::Limits;
use crate::memory::Memory;
use crate::metadata::Metadata;
use crate::shard::{Opener, Shard};
use crate::siblings;
use crate::split::{self, SplitKeys};
use crate::tensor::{NameIndex, TENSORS, TensorInfo};
use crate::warning::Warning;

/// Number of bytes in the first read of a file. This is enough for most files without a vocabulary. Each
/// further read reads up to four times as many bytes.
const FIRST_READ: u64 = 256 << 10;

/// The headers of all shards under one catalogue.
enum Catalogue<'a> {
    One(&'a Arc<OwnedGguf>),
    Split { first: &'a Arc<OwnedGguf>, tensors: Vec<TensorInfo<'a>>, index: NameIndex<'a> },
}

self_cell! {
    /// The headers of the shards together with a catalogue that borrows from them.
    struct OwnedCatalogue {
        owner: Vec<Arc<OwnedGguf>>,
        #[covariant]
        dependent: Catalogue,
    }
}

/// A model on disk: one file, or all shards of a split one, under one catalogue.
///
/// ```no_run
/// # use gguf_format::GgufFile;
/// // Any shard will do; the others are found by name.
/// let model = GgufFile::open("Phi-3-mini-4k-instruct-q4-00002-of-00003.gguf")?;
/// for tensor in model.tensors() {
///     let file = model.shards()[tensor.shard()].path();
///     println!("{} {} in {} at {:?}", tensor.name(), tensor.shape(), file.display(), tensor.range());
/// }
/// # Ok::<(), gguf_format::Error>(())
/// ```
///
/// # Split models
///
/// A file is a shard if its `split.count` is 2 or more. Its name must end in `-00001-of-0000N.gguf` and
/// match `split.no` and `split.count`. The same holds for the other shards, which must be in the same
/// folder. The rest of the name can be any bytes. The metadata of the model are those of the first
/// shard. `split.tensors.count` is checked if it is present.
///
/// If `split.count` is absent, 0 or 1, the file is a complete model. It is refused if its name or
/// `split.no` is that of one of several shards. The name is that of the path given, also if the path is
/// a symbolic link.
pub struct GgufFile<S = OpenFile> {
    shards: Vec<Shard<S>>,
    catalogue: OwnedCatalogue,
}

impl GgufFile {
    /// Opens a model within the default [`Limits`]. See [`open_with`](Self::open_with).
    ///
    /// # Errors
    ///
    /// Those of [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &Limits::default())
    }

    /// Opens a model: reads the headers of the file and of the other shards into memory.
    ///
    /// Other processes may change the file at the same time: the header is parsed from a private copy, and
    /// the file is not mapped.
    ///
    /// The reads cover little more than the header: first 256 KiB (16 KiB for further shards), then up to
    /// four times as much as before, within [`Limits::max_header_bytes`]. This limit applies to the headers
    /// of all shards together. Addresses are reserved for the longest header, but no memory. Of the data,
    /// only the padding between tensors is read: see [`Warning`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the errors of [`Gguf::parse`], as [`Error::InFile`] with the file's name;
    /// [`Error::Shard`] if shards of a split model are missing or do not match.
    pub fn open_with(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, Error> {
        Self::open_from(path, limits, |path| OpenFile::open(path))
    }

    /// Opens a model whose file is already open. If the file is a shard, the other shards are opened by the
    /// names that follow from its path.
    ///
    /// # Errors
    ///
    /// Those of [`open_with`](Self::open_with).
    pub fn open_file(file: OpenFile, limits: &Limits) -> Result<Self, Error> {
        let path = file.path().to_owned();
        let given = Cell::new(Some(file));
        Self::open_from(&path, limits, |path| given.take().map_or_else(|| OpenFile::open(path), Ok))
    }
}

impl<S: ByteSource> GgufFile<S> {
    /// Opens a model from sources that `open` returns for their names: a model in a store, or in
    /// memory.
    ///
    /// `open` is called with `name`. If that source is a shard of a split model, `open` is also called
    /// with the names of the other shards, which differ from `name` only in their number. If there is no
    /// source of a name, it must return [`NotFound`](io::ErrorKind::NotFound).
    ///
    /// ```
    /// # use std::io;
    /// # use std::path::Path;
    /// # use gguf_format::{ByteSource, GgufFile, Limits, write::GgufWriter};
    /// struct InMemory(Vec<u8>);
    ///
    /// impl ByteSource for InMemory {
    ///     fn name(&self) -> &Path {
    ///         Path::new("in memory")
    ///     }
    ///
    ///     fn byte_len(&self) -> u64 {
    ///         self.0.len() as u64
    ///     }
    ///
    ///     fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    ///         let start = usize::try_from(offset).map_err(io::Error::other)?;
    ///         let rest = self.0.get(start..).unwrap_or_default();
    ///         let bytes = rest.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
    ///         buffer.copy_from_slice(bytes);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # let bytes = GgufWriter::new().kv("general.architecture", "phi3").to_bytes(|_, _| ()).unwrap();
    /// let model = GgufFile::open_from("in memory", &Limits::default(), |_| Ok(InMemory(bytes.clone())))?;
    /// assert_eq!(model.metadata().require::<&str>("general.architecture")?, "phi3");
    /// # Ok::<(), gguf_format::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open_with`](GgufFile::open_with). Errors name the source.
    pub fn open_from(
        name: impl AsRef<Path>,
        limits: &Limits,
        open: impl Fn(&Path) -> io::Result<S>,
    ) -> Result<Self, Error> {
        let opener = Opener { open: &open, parse: &OwnedGguf::read };
        Self::open_by(name.as_ref(), limits, &opener)
    }

    /// Opens a source, and the other shards if it is a shard.
    pub(crate) fn open_by(
        name: &Path,
        limits: &Limits,
        opener: &Opener<'_, S>,
    ) -> Result<Self, Error> {
        let opened = opener.open(name, limits, FIRST_READ)?;
        let keys = SplitKeys::of(opened.gguf()).map_err(|error| error.in_file(opened.path()))?;
        let (shards, memory) = match keys {
            None => {
                split::check_whole(opened.path(), opened.gguf())?;
                (vec![opened], Memory::new(limits.max_memory))
            }
            Some(keys) => {
                opened.check_not_joined(keys)?;
                siblings::open(opened, keys, limits, opener)?
            }
        };
        let headers = shards.iter().map(|shard| Arc::clone(shard.header())).collect();
        let names = shards.iter().map(Shard::path);
        let catalogue =
            OwnedCatalogue::try_new(headers, |headers| join(headers, name, names, memory))
                .map_err(|error| error.in_file(name))?;
        Ok(Self { shards, catalogue })
    }

    /// Returns all files of the model, at least one; the first shard is first.
    #[must_use]
    pub fn shards(&self) -> &[Shard<S>] {
        &self.shards
    }

    /// Returns the tensors of all shards: first those of the first shard in file order, then those of the next.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo<'_>] {
        match self.catalogue.borrow_dependent() {
            Catalogue::One(header) => header.gguf().tensors(),
            Catalogue::Split { tensors, .. } => tensors,
        }
    }

    /// Returns the tensor of this name, in any shard.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'_>> {
        match self.catalogue.borrow_dependent() {
            Catalogue::One(header) => header.gguf().tensor(name),
            Catalogue::Split { tensors, index, .. } => tensors.get(index.get(name)?),
        }
    }

    /// Returns the key-value pairs of the first shard.
    #[must_use]
    pub fn metadata(&self) -> &Metadata<'_> {
        self.first().metadata()
    }

    /// Returns the header of the first shard. It stays valid when the file is closed.
    #[must_use]
    pub fn header(&self) -> GgufHeader {
        GgufHeader::new(Arc::clone(self.first_header()))
    }

    /// Returns the version of the format in the first shard.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.first().version()
    }

    /// Returns the alignment of tensor data in bytes, in the first shard.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.first().alignment()
    }

    /// Returns the warnings about the files. They can be read, but may be wrong.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.shards().iter().flat_map(Shard::warnings)
    }

    /// Returns the data of a tensor, if the files were [mapped](Self::map).
    #[must_use]
    pub fn data(&self, tensor: &TensorInfo<'_>) -> Option<&[u8]> {
        let shard = self.shards().get(tensor.shard())?;
        shard.mapped()?;
        shard.gguf().data(tensor)
    }

    fn first(&self) -> &Gguf<'_> {
        self.first_header().gguf()
    }

    fn first_header(&self) -> &Arc<OwnedGguf> {
        match self.catalogue.borrow_dependent() {
            Catalogue::One(first) | Catalogue::Split { first, .. } => first,
        }
    }
}

impl<S: ByteSource> fmt::Debug for GgufFile<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("shards", &self.shards)
            .field("metadata", &self.metadata().len())
            .field("tensors", &self.tensors().len())
            .finish_non_exhaustive()
    }
}

/// Returns one catalogue of all shards of the model that was opened by `name`. Fails if the shards do not
/// belong to one model.
fn join<'a, 'n>(
    headers: &'a [Arc<OwnedGguf>],
    name: &Path,
    names: impl Iterator<Item = &'n Path> + Clone,
    mut memory: Memory,
) -> Result<Catalogue<'a>, Error> {
    let first = match headers {
        [] => {
            let kind = ShardKind::Missing { no: 1, count: 1 };
            return Err(Error::Shard { path: name.to_owned(), kind });
        }
        [only] => return Ok(Catalogue::One(only)),
        [first, ..] => first,
    };
    let shards = names.zip(headers.iter().map(|header| header.gguf()));
    split::same_model(shards.clone())?;
    let mut tensors = Vec::new();
    let mut index = NameIndex::default();
    for (at, (name, gguf)) in shards.enumerate() {
        for tensor in gguf.tensors() {
            if !index.insert(tensor.name(), tensors.len(), &mut memory)? {
                let kind = ShardKind::DuplicateTensor { name: tensor.name().to_owned() };
                return Err(Error::Shard { path: name.to_owned(), kind });
            }
            memory.push(&mut tensors, tensor.in_shard(at), TENSORS)?;
        }
    }
    Ok(Catalogue::Split { first, tensors, index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::GgufWriter;
    use std::fs::File;

    /// Opens a file of `file_len` bytes whose header has a text of `text_len` bytes. Returns the number of
    /// bytes that were read.
    fn bytes_read(text_len: usize, file_len: u64) -> u64 {
        let mut writer = GgufWriter::new();
        let header = writer.kv("k", "x".repeat(text_len)).to_bytes(|_, _| ()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, header).unwrap();
        // The rest is a hole, which takes no disk space on most file systems.
        File::options().write(true).open(&path).unwrap().set_len(file_len).unwrap();
        let model = GgufFile::open(&path).unwrap();
        model.shards()[0].header().borrow_owner().len() as u64
    }

    #[test]
    fn little_more_than_the_header_is_read_of_a_large_file() {
        assert_eq!(bytes_read(100, 8 << 30), FIRST_READ);
        assert_eq!(bytes_read(300_000, 8 << 30), 4 * FIRST_READ);
        let exact = bytes_read(20_000_000, 8 << 30);
        assert!(exact < 20_000_000 + 2 * FIRST_READ, "{exact}");
    }

    #[test]
    fn reads_end_at_the_end_of_the_file() {
        assert_eq!(bytes_read(100, 4096), 4096);
        assert_eq!(bytes_read(3_000_000, 3_100_000), 3_100_000);
    }
}
