//! Models that are read from other sources than files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use gguf_format::write::GgufWriter;
use gguf_format::{
    ByteSource, Error, ErrorClass, GgmlType, GgufFile, IoError, Limits, OpenFile, ShardKind,
    TensorInfo,
};

const EIO: i32 = 5;

/// A source that reads from memory.
struct InMemory {
    name: PathBuf,
    bytes: Vec<u8>,
}

impl ByteSource for InMemory {
    fn name(&self) -> &Path {
        &self.name
    }

    fn byte_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let bytes = rest.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A source that fails at every read.
struct Unreadable(PathBuf);

impl ByteSource for Unreadable {
    fn name(&self) -> &Path {
        &self.0
    }

    fn byte_len(&self) -> u64 {
        4096
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(EIO))
    }
}

/// Sources by name.
type Store = BTreeMap<PathBuf, Vec<u8>>;

fn open_stored(store: &Store, name: &Path) -> io::Result<Box<dyn ByteSource>> {
    let bytes = store.get(name).ok_or(io::ErrorKind::NotFound)?.clone();
    Ok(Box::new(InMemory { name: name.to_owned(), bytes }))
}

fn shard_name(no: u64) -> PathBuf {
    format!("store:m-0000{no}-of-00003.gguf").into()
}

/// Returns a model of three shards with one tensor each.
fn three_shards() -> Store {
    let shard = |no: u64| {
        let mut writer = GgufWriter::new();
        writer.split(no as u16 - 1, 3, 3).tensor(format!("t{no}"), &[8], GgmlType::F32);
        let bytes = writer.to_bytes(|_, data| data.fill(no as u8)).unwrap();
        (shard_name(no), bytes)
    };
    (1..=3).map(shard).collect()
}

#[test]
fn a_split_model_is_read_from_memory() {
    let store = three_shards();
    let open = |name: &Path| open_stored(&store, name);
    let model = GgufFile::open_from(shard_name(2), &Limits::default(), open).unwrap();
    let names: Vec<_> = model.tensors().iter().map(TensorInfo::name).collect();
    assert_eq!(names, ["t1", "t2", "t3"]);
    for (tensor, no) in model.tensors().iter().zip(1..) {
        let shard = &model.shards()[tensor.shard()];
        assert_eq!(shard.path(), shard_name(no));
        assert_eq!(shard.len(), store[&shard_name(no)].len() as u64);
        let mut data = [0; 32];
        shard.source().read_exact_at(&mut data, tensor.range().start).unwrap();
        assert_eq!(data, [no as u8; 32]);
        assert_eq!((model.data(tensor), shard.mapped()), (None, None));
    }
}

#[test]
fn memory_and_file_give_the_same_catalogue() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_shards();
    for (name, bytes) in &store {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let file = GgufFile::open(folder.path().join(shard_name(1))).unwrap();
    let open = |name: &Path| open_stored(&store, name);
    let memory = GgufFile::open_from(shard_name(1), &Limits::default(), open).unwrap();
    assert_eq!(file.tensors(), memory.tensors());
    assert!(file.metadata().iter().eq(memory.metadata().iter()));
    let path = folder.path().join(shard_name(3));
    assert_eq!(file.shards()[2].source().path(), path);
    let opened = OpenFile::open(&path).unwrap();
    assert_eq!((opened.name(), opened.byte_len()), (&*path, file.shards()[2].len()));
}

#[test]
fn an_open_file_is_read_without_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let bytes = GgufWriter::new().kv("general.name", "open").to_bytes(|_, _| ()).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let model =
        GgufFile::open_file(OpenFile::from_file(file, &path).unwrap(), &Limits::default()).unwrap();
    assert_eq!(model.shards()[0].path(), path);

    let header = model.header();
    drop(model);
    assert_eq!(header.gguf().metadata().require::<&str>("general.name").unwrap(), "open");
    assert!(header.memory_bytes() >= bytes.len() as u64);
    let folder = std::fs::File::open(folder.path()).unwrap();
    let refused = OpenFile::from_file(folder, "folder").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_other_shards_of_an_open_file_are_opened_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in three_shards() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let path = folder.path().join(shard_name(2));
    let file = OpenFile::from_file(std::fs::File::open(&path).unwrap(), path).unwrap();
    let model = GgufFile::open_file(file, &Limits::default()).unwrap();
    assert_eq!(model.tensors().len(), 3);
    assert_eq!(model.shards()[2].path(), folder.path().join(shard_name(3)));
}

#[test]
fn a_source_that_cannot_be_read_is_named() {
    let open = |name: &Path| Ok(Unreadable(name.to_owned()));
    let error = GgufFile::open_from("store:m.gguf", &Limits::default(), open).unwrap_err();
    assert_eq!((error.code(), error.class()), ("GGUF_IO", ErrorClass::Io));
    assert_eq!(error.path(), Some(Path::new("store:m.gguf")));
    assert!(error.to_string().starts_with("cannot read store:m.gguf: "), "{error}");
    let cause: &IoError = std::error::Error::source(&error).unwrap().downcast_ref().unwrap();
    assert_eq!(cause.raw_os_error(), Some(EIO));
}

/// Returns the error of the model without the source of the third shard, or with another one in its place.
fn with_third(third: impl Fn() -> io::Result<Box<dyn ByteSource>>) -> Error {
    let store = three_shards();
    let open = |name: &Path| {
        if name == shard_name(3) { third() } else { open_stored(&store, name) }
    };
    GgufFile::open_from(shard_name(1), &Limits::default(), open).unwrap_err()
}

#[test]
fn errors_name_the_faulty_shard() {
    let unreadable = with_third(|| Ok(Box::new(Unreadable(shard_name(3)))));
    let denied = with_third(|| Err(io::ErrorKind::PermissionDenied.into()));
    let truncated = with_third(|| {
        let mut bytes = three_shards().remove(&shard_name(3)).unwrap();
        bytes.truncate(bytes.len() - 1);
        Ok(Box::new(InMemory { name: shard_name(3), bytes }))
    });
    let missing = with_third(|| Err(io::ErrorKind::NotFound.into()));
    for (error, code) in [
        (&unreadable, "GGUF_IO"),
        (&denied, "FILE_PERMISSION"),
        (&truncated, "GGUF_TRUNCATED"),
        (&missing, "GGUF_SHARD_MISSING"),
    ] {
        assert_eq!((error.code(), error.path()), (code, Some(&*shard_name(3))), "{error}");
        assert!(error.to_string().contains("m-00003-of-00003.gguf"), "{error}");
    }
    let is_third = |kind: &ShardKind| matches!(kind, ShardKind::Missing { no: 3, count: 3 });
    assert!(matches!(&missing, Error::Shard { kind, .. } if is_third(kind)));
}

/// A source that fails at every read except the first.
struct Failing<'f>(InMemory, &'f AtomicBool);

impl ByteSource for Failing<'_> {
    fn name(&self) -> &Path {
        self.0.name()
    }

    fn byte_len(&self) -> u64 {
        self.0.byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // The first read is that of the header. The later reads are those of padding.
        match self.1.swap(true, Ordering::Relaxed) {
            false => self.0.read_exact_at(buffer, offset),
            true => Err(io::Error::from_raw_os_error(EIO)),
        }
    }
}

#[test]
fn a_failed_read_of_padding_is_an_error() {
    let mut writer = GgufWriter::new();
    writer.split(0, 2, 1).tensor("t", &[8], GgmlType::F32);
    let mut bytes = writer.to_bytes(|_, _| ()).unwrap();
    bytes.extend([0; 64]);
    let failing = AtomicBool::new(false);
    let open = |name: &Path| {
        Ok(Failing(InMemory { name: name.to_owned(), bytes: bytes.clone() }, &failing))
    };
    let name = "m-00001-of-00002.gguf";
    let error = GgufFile::open_from(name, &Limits::default(), open).unwrap_err();
    assert_eq!((error.code(), error.path()), ("GGUF_IO", Some(Path::new(name))));
}
