//! Models on disk: one file, or all the files of a split model.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use self_cell::self_cell;

use crate::error::{Error, ShardKind};
use crate::gguf::{Gguf, padded};
use crate::limits::Limits;
use crate::magic;
use crate::memory::Memory;
use crate::metadata::{KEY_COUNT, Metadata};
use crate::prefix::Prefix;
use crate::reader::HEADER_SIZE;
use crate::shards::{self, SplitKeys};
use crate::tensor::{NameIndex, TENSOR_COUNT, TENSORS, TensorInfo};
use crate::warning::{self, Warning};

/// Bytes of a file that are read first. Enough for most files without a vocabulary; each further
/// read takes four times as much.
const FIRST_READ: u64 = 256 << 10;

/// The same of every further shard, whose headers hold little but tensor descriptions: a thousand of them
/// are kept.
const FIRST_READ_OF_SIBLING: u64 = 16 << 10;

/// What the memory of a header's bytes is for.
const BYTES: &str = "the bytes";

/// Bytes of a tensor description beside its name, at most.
const DESCRIPTION_BYTES: u64 = 8 + 4 + 4 * 8 + 4 + 8;

/// The bytes a header was parsed from.
pub(crate) enum HeaderBytes {
    /// The start of the file, as it was when it was read.
    Read(Prefix),
    /// The whole file.
    Mapped(memmap2::Mmap),
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(prefix) => prefix,
            Self::Mapped(map) => map,
        }
    }
}

self_cell! {
    /// A header together with the bytes it borrows from.
    pub(crate) struct OwnedGguf {
        owner: HeaderBytes,
        #[covariant]
        dependent: Gguf,
    }
}

/// One file of a model, open.
pub struct Shard {
    path: PathBuf,
    file: File,
    opened_as: std::fs::Metadata,
    gguf: OwnedGguf,
    warnings: Vec<Warning>,
}

impl Shard {
    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file. Ranges of tensors are offsets in it; read them with positioned reads, its
    /// cursor is anywhere.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Length in bytes when it was opened. Ranges were proven against this length: a file that is
    /// shorter by now fails to be read, it does not yield wrong bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an empty file is no shard")]
    pub fn len(&self) -> u64 {
        self.opened_as.len()
    }

    /// What the file system said of the file when it was opened, before anything was read. A file
    /// that looks different later has been changed by somebody.
    #[must_use]
    pub const fn opened_as(&self) -> &std::fs::Metadata {
        &self.opened_as
    }

    /// Where the data section starts, in bytes from the start of the file.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.gguf().data_offset()
    }

    /// The header of this file alone.
    #[must_use]
    pub fn gguf(&self) -> &Gguf<'_> {
        self.gguf.borrow_dependent()
    }

    /// Bytes of memory that the header takes.
    fn memory_bytes(&self) -> u64 {
        let bytes = match self.gguf.borrow_owner() {
            HeaderBytes::Read(prefix) => Prefix::memory_bytes(prefix.len() as u64),
            HeaderBytes::Mapped(_) => 0,
        };
        bytes.saturating_add(self.gguf().list_bytes())
    }

    /// What may be wrong with this file although it is read.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The whole file, where it was [mapped](GgufFile::map).
    #[must_use]
    pub fn mapped(&self) -> Option<&[u8]> {
        match self.gguf.borrow_owner() {
            HeaderBytes::Mapped(map) => Some(map),
            HeaderBytes::Read(_) => None,
        }
    }

    /// Opens one file; `parse` reads or maps its header.
    fn open(
        path: &Path,
        limits: &Limits,
        first_read: u64,
        parse: &ParseFile<'_>,
    ) -> Result<Self, Error> {
        let io_error = |source| Error::Io { path: path.to_owned(), source };
        // Asked before opening: opening a pipe waits for its other end.
        if !std::fs::metadata(path).map_err(io_error)?.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(io_error(source));
        }
        let file = File::open(path).map_err(io_error)?;
        let opened_as = file.metadata().map_err(io_error)?;
        let gguf =
            parse(&file, opened_as.len(), limits, first_read).map_err(|error| match error {
                ParseFileError::Io(source) if source.kind() == io::ErrorKind::OutOfMemory => {
                    let bytes = opened_as.len().min(limits.max_header_bytes);
                    Error::OutOfMemory { what: BYTES, bytes, left: None }.in_file(path)
                }
                ParseFileError::Io(source) => io_error(source),
                ParseFileError::Gguf(error) => error.in_file(path),
            })?;
        let warnings = warning::of_file(path, &file, gguf.borrow_dependent()).map_err(io_error)?;
        Ok(Self { path: path.to_owned(), file, opened_as, gguf, warnings })
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("path", &self.path)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// How a file of a length becomes a header, by [`read_header`] or by mapping: the last figure is the number
/// of bytes that are read first.
pub(crate) type ParseFile<'f> =
    dyn Fn(&File, u64, &Limits, u64) -> Result<OwnedGguf, ParseFileError> + 'f;

/// An error that does not name its file yet.
pub(crate) enum ParseFileError {
    Io(io::Error),
    Gguf(Error),
}

impl OwnedGguf {
    /// Parses the header of a file of `len` bytes that starts with `bytes`; gives the bytes back
    /// with an error.
    pub(crate) fn parse(
        bytes: HeaderBytes,
        len: u64,
        limits: &Limits,
    ) -> Result<Self, (HeaderBytes, Error)> {
        Self::try_new_or_recover(bytes, |bytes| Gguf::parse_header(bytes, len, limits))
    }
}

/// Reads as much of the file as its header turns out to take.
fn read_header(
    file: &File,
    len: u64,
    limits: &Limits,
    first_read: u64,
) -> Result<OwnedGguf, ParseFileError> {
    // With the padding behind the longest header, or a description in its place.
    let after = limits.max_alignment.max(limits.max_name_len.saturating_add(DESCRIPTION_BYTES));
    let room = limits.max_header_bytes.saturating_add(after);
    let most = len.min(room);
    let mut prefix = Prefix::with_room_for(most).map_err(ParseFileError::Io)?;
    let mut wanted = first_read;
    loop {
        let read = wanted.min(most);
        let bytes = Prefix::memory_bytes(read);
        let mut memory = Memory::new(limits.max_memory);
        memory.grow(0, bytes, BYTES).map_err(ParseFileError::Gguf)?;
        prefix.read_until(file, read).map_err(ParseFileError::Io)?;
        let limits = &limits.clone().with_max_memory(memory.left());
        match OwnedGguf::parse(HeaderBytes::Read(prefix), len, limits) {
            Ok(gguf) => return Ok(gguf),
            Err((HeaderBytes::Read(read), Error::Incomplete { needed })) => {
                let more = (read.len() as u64).saturating_mul(4).min(limits.max_header_bytes);
                wanted = more.max(needed.saturating_add(first_read));
                prefix = read;
            }
            Err((_, error)) => return Err(ParseFileError::Gguf(error)),
        }
    }
}

/// The headers of all shards as one.
enum Catalogue<'a> {
    One(&'a Gguf<'a>),
    Split { first: &'a Gguf<'a>, tensors: Vec<TensorInfo<'a>>, index: NameIndex<'a> },
}

self_cell! {
    /// Shards together with a catalogue that borrows from them.
    struct Model {
        owner: Vec<Shard>,
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
/// A file whose `split.count` is 2 or more is a shard. Its name must end in
/// `-00001-of-0000N.gguf` and agree with `split.no` and `split.count`, as must those of its
/// siblings in the same folder. The rest of the name is any bytes. Metadata are those of the first
/// shard. `split.tensors.count` is checked where present.
///
/// Without `split.count`, or with 0 or 1, a file is a model by itself. It is refused where its name or
/// `split.no` says that it is one of several shards. The name is the one that it was opened by, also
/// where that is a symbolic link.
pub struct GgufFile {
    model: Model,
}

impl GgufFile {
    /// Opens a model within the default [`Limits`]. See [`open_with`](Self::open_with).
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &Limits::default())
    }

    /// Opens a model: reads the header of the file, and of its sibling shards, into memory.
    ///
    /// Safe whatever others do to the file meanwhile: the header is parsed from a private copy,
    /// and the file is not mapped. Not much more is read than the header takes: the first 256 KiB (of
    /// further shards 16 KiB), then up to four times as much as before, as long as
    /// [`Limits::max_header_bytes`] allow, which are for the headers of all shards together. Addresses
    /// are reserved for the longest header, but no memory. Of the data, only padding between tensors is
    /// looked at, where there is some: see [`Warning`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; what [`Gguf::parse`] refuses, as [`Error::InFile`] with the file's name;
    /// [`Error::Shard`] where the shards of a split model are missing or do not fit.
    pub fn open_with(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, Error> {
        Self::open_by(path.as_ref(), limits, &read_header)
    }

    /// Opens a file, and its siblings where it is a shard; `parse` reads or maps each.
    pub(crate) fn open_by(
        path: &Path,
        limits: &Limits,
        parse: &ParseFile<'_>,
    ) -> Result<Self, Error> {
        let opened = Shard::open(path, limits, FIRST_READ, parse)?;
        let keys = SplitKeys::of(opened.gguf()).map_err(|error| error.in_file(path))?;
        let (shards, memory) = match keys {
            None => {
                shards::check_whole(path, opened.gguf())?;
                (vec![opened], Memory::new(limits.max_memory))
            }
            Some(keys) => {
                opened.check_not_joined(keys)?;
                open_siblings(opened, keys, limits, parse)?
            }
        };
        let model = Model::try_new(shards, |shards| join(shards, path, memory));
        model.map(|model| Self { model }).map_err(|error| error.in_file(path))
    }

    /// All files of the model, the first shard first; at least one.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        self.model.borrow_owner()
    }

    /// The tensors of all shards: those of the first in file order, then those of the next.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo<'_>] {
        match self.model.borrow_dependent() {
            Catalogue::One(gguf) => gguf.tensors(),
            Catalogue::Split { tensors, .. } => tensors,
        }
    }

    /// The tensor of this name, in whichever shard.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'_>> {
        match self.model.borrow_dependent() {
            Catalogue::One(gguf) => gguf.tensor(name),
            Catalogue::Split { tensors, index, .. } => tensors.get(index.get(name)?),
        }
    }

    /// The key-value pairs, those of the first shard.
    #[must_use]
    pub fn metadata(&self) -> &Metadata<'_> {
        self.first().metadata()
    }

    /// The version of the format, that of the first shard.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.first().version()
    }

    /// The alignment of tensor data in bytes, that of the first shard.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.first().alignment()
    }

    /// What may be wrong with the files although they are read.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.shards().iter().flat_map(Shard::warnings)
    }

    /// The data of a tensor, where the files were [mapped](Self::map).
    #[must_use]
    pub fn data(&self, tensor: &TensorInfo<'_>) -> Option<&[u8]> {
        let shard = self.shards().get(tensor.shard())?;
        shard.mapped()?;
        shard.gguf().data(tensor)
    }

    fn first(&self) -> &Gguf<'_> {
        match self.model.borrow_dependent() {
            Catalogue::One(first) | Catalogue::Split { first, .. } => first,
        }
    }
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("shards", &self.shards())
            .field("metadata", &self.metadata().len())
            .field("tensors", &self.tensors().len())
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// Fails where another file follows in this one, which is a shard by its keys: shards that were joined
    /// make no model.
    fn check_not_joined(&self, keys: SplitKeys) -> Result<(), Error> {
        let end = self.gguf().data_end();
        for at in [end, padded(end, self.gguf().alignment())] {
            let mut magic = [0; 4];
            // Where there is less, nothing follows.
            if self.file.read_exact_at(&mut magic, at).is_ok() && magic == magic::MAGIC {
                let kind =
                    ShardKind::Joined { no: keys.no.saturating_add(1), count: keys.count, at };
                return Err(Error::Shard { path: self.path.clone(), kind });
            }
        }
        Ok(())
    }
}

/// What the headers of the shards have taken, of bounds on all of them together. Keys and tensors count
/// beside the bytes: in memory a short one takes many times its bytes.
struct HeaderBudget<'l> {
    limits: &'l Limits,
    bytes: u64,
    keys: u64,
    tensors: u64,
    memory: Memory,
}

impl HeaderBudget<'_> {
    /// Opens a further shard within what is left.
    fn open(&mut self, path: &Path, parse: &ParseFile<'_>) -> Result<Shard, Error> {
        let limits = self.limits;
        let left = limits
            .clone()
            .with_max_header_bytes(limits.max_header_bytes.saturating_sub(self.bytes))
            .with_max_kv(limits.max_kv.saturating_sub(self.keys))
            .with_max_tensors(limits.max_tensors.saturating_sub(self.tensors))
            .with_max_memory(self.memory.left());
        let shard = Shard::open(path, &left, FIRST_READ_OF_SIBLING, parse).map_err(|error| {
            let &Error::Limit { offset, what, value, .. } = error.without_path() else {
                return error;
            };
            let (what, used, limit) = match what {
                HEADER_SIZE => (
                    "the size of the headers of all shards in bytes",
                    self.bytes,
                    limits.max_header_bytes,
                ),
                KEY_COUNT => {
                    ("the number of key-value pairs of all shards", self.keys, limits.max_kv)
                }
                TENSOR_COUNT => {
                    ("the number of tensors of all shards", self.tensors, limits.max_tensors)
                }
                _ => return error,
            };
            let value = value.saturating_add(used);
            Error::Limit { offset, what, value, limit }.in_file(path)
        })?;
        self.take(&shard)?;
        Ok(shard)
    }

    fn take(&mut self, shard: &Shard) -> Result<(), Error> {
        let gguf = shard.gguf();
        self.bytes = self.bytes.saturating_add(gguf.header_end());
        self.keys = self.keys.saturating_add(gguf.metadata().len() as u64);
        self.tensors = self.tensors.saturating_add(gguf.tensors().len() as u64);
        let taken = self.memory.grow(0, shard.memory_bytes(), BYTES);
        taken.map_err(|error| error.in_file(shard.path()))
    }
}

/// Opens the other shards of the model that `opened` belongs to. Returns all, in order, and what they
/// leave of the memory for headers.
fn open_siblings(
    opened: Shard,
    keys: SplitKeys,
    limits: &Limits,
    parse: &ParseFile<'_>,
) -> Result<(Vec<Shard>, Memory), Error> {
    let name = shards::name_of(&opened.path, keys)?;
    if name.count > limits.max_shards {
        let error = Error::Limit {
            offset: 0,
            what: "the number of shards",
            value: name.count,
            limit: limits.max_shards,
        };
        return Err(error.in_file(&opened.path));
    }
    let memory = Memory::new(limits.max_memory);
    let mut budget = HeaderBudget { limits, bytes: 0, keys: 0, tensors: 0, memory };
    budget.take(&opened)?;
    let mut opened = Some(opened);
    let mut all = Vec::new();
    for no in 1..=name.count {
        if no == name.no {
            all.extend(opened.take());
            continue;
        }
        let path = name.sibling(no);
        let shard = budget.open(&path, parse).map_err(|error| match error {
            Error::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Error::Shard { path, kind: ShardKind::Missing { no, count: name.count } }
            }
            other => other,
        })?;
        let found = SplitKeys::of(shard.gguf()).map_err(|error| error.in_file(&path))?;
        let Some(found) = found else {
            let kind = ShardKind::Foreign { why: "it has no split.count" };
            return Err(Error::Shard { path, kind });
        };
        shards::check(&path, found, &name, no)?;
        shard.check_not_joined(found)?;
        all.push(shard);
    }
    Ok((all, budget.memory))
}

/// One catalogue of all shards of the model at `path`, which must agree on what they are shards of.
fn join<'a>(shards: &'a [Shard], path: &Path, mut memory: Memory) -> Result<Catalogue<'a>, Error> {
    let first = match shards {
        [] => {
            let kind = ShardKind::Missing { no: 1, count: 1 };
            return Err(Error::Shard { path: path.to_owned(), kind });
        }
        [only] => return Ok(Catalogue::One(only.gguf())),
        [first, ..] => first.gguf(),
    };
    shards::same_model(shards.iter().map(|shard| (shard.path(), shard.gguf())))?;
    let mut tensors = Vec::new();
    let mut index = NameIndex::default();
    for (at, shard) in shards.iter().enumerate() {
        for tensor in shard.gguf().tensors() {
            if !index.insert(tensor.name(), tensors.len(), &mut memory)? {
                let kind = ShardKind::DuplicateTensor { name: tensor.name().to_owned() };
                return Err(Error::Shard { path: shard.path.clone(), kind });
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

    /// Bytes that are read of a file of `file_len` bytes which starts with this key's header.
    fn bytes_read(text_len: usize, file_len: u64) -> u64 {
        let mut writer = GgufWriter::new();
        let header = writer.kv("k", "x".repeat(text_len)).to_bytes(|_, _| ()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, header).unwrap();
        // Zeros, which take no room on most disks.
        File::options().write(true).open(&path).unwrap().set_len(file_len).unwrap();
        let model = GgufFile::open(&path).unwrap();
        model.shards()[0].gguf.borrow_owner().len() as u64
    }

    #[test]
    fn no_more_is_read_of_a_large_file_than_its_header_takes() {
        assert_eq!(bytes_read(100, 8 << 30), FIRST_READ);
        assert_eq!(bytes_read(300_000, 8 << 30), 4 * FIRST_READ);
        let exact = bytes_read(20_000_000, 8 << 30);
        assert!(exact < 20_000_000 + 2 * FIRST_READ, "{exact}");
    }

    #[test]
    fn no_more_is_read_than_there_is() {
        assert_eq!(bytes_read(100, 4096), 4096);
        assert_eq!(bytes_read(3_000_000, 3_100_000), 3_100_000);
    }
}
