//! Models on disk: single, split, mapped and faulty ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gguf_format::write::GgufWriter;
use gguf_format::{Error, ErrorClass, GgmlType, GgufFile, Limits, ShardKind};
use raw::{Raw, STRING, U8, string, valid};
use tempfile::TempDir;

/// Three shards as llama.cpp splits them: metadata in the first, tensors in the others.
struct Split {
    folder: TempDir,
}

impl Split {
    fn new() -> Self {
        let split = Self { folder: tempfile::tempdir().unwrap() };
        for no in 0..3 {
            split.write(no, &Self::shard(no));
        }
        split
    }

    fn shard(no: u16) -> GgufWriter {
        let mut writer = GgufWriter::new();
        if no == 0 {
            writer.kv("general.architecture", "phi3").kv("phi3.block_count", 2u32);
        } else {
            writer.tensor(format!("blk.{no}.a"), &[8], GgmlType::F32);
            writer.tensor(format!("blk.{no}.b"), &[256, 2], GgmlType::Q4_K);
        }
        writer.split(no, 3, 4);
        writer
    }

    fn path(&self, no: u16) -> PathBuf {
        self.folder.path().join(format!("model-{:05}-of-00003.gguf", no + 1))
    }

    fn write(&self, no: u16, writer: &GgufWriter) {
        let bytes = writer.to_bytes(|index, data| data.fill(no as u8 * 16 + index as u8));
        fs::write(self.path(no), bytes.unwrap()).unwrap();
    }

    #[track_caller]
    fn refusal(&self, opened: u16) -> Error {
        GgufFile::open(self.path(opened)).expect_err("the model must be refused")
    }

    /// Opens a shard, and returns the reason of the error. The error must name the shard `named`.
    #[track_caller]
    fn shard_refusal(&self, opened: u16, named: u16) -> ShardKind {
        match self.refusal(opened) {
            Error::Shard { path, kind } => {
                assert_eq!(path, self.path(named));
                kind
            }
            other => panic!("no shard error: {other:?}"),
        }
    }
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Calls `f`, which must return within a minute, also on slow machines. Returns its result.
#[track_caller]
fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(f()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("an answer")
}

#[test]
fn one_file_is_a_model_of_one_shard() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = valid().bytes();
    let path = write(&folder, "model.gguf", &bytes);
    let model = GgufFile::open(&path).unwrap();
    assert_eq!(model.shards().len(), 1);
    assert_eq!(model.shards()[0].path(), path);
    assert_eq!(model.shards()[0].len(), bytes.len() as u64);
    assert_eq!(model.shards()[0].file().metadata().unwrap().len(), bytes.len() as u64);
    assert_eq!(model.shards()[0].data_offset() % 32, 0);
    assert_eq!((model.version(), model.alignment()), (3, 32));
    assert_eq!(model.metadata().require::<&str>("general.architecture").unwrap(), "phi3");
    let tensor = model.tensor("scale").unwrap();
    assert_eq!(tensor.range().end, bytes.len() as u64);
    assert_eq!((tensor.shard(), model.tensors().len()), (0, 3));
    assert_eq!(model.data(tensor), None);
}

#[test]
fn headers_longer_than_the_first_read_are_read_completely() {
    let folder = tempfile::tempdir().unwrap();
    for len in [200_000, 262_144 - 24 - 8 - 1 - 12, 262_144, 5_000_000] {
        let bytes = Raw::default()
            .kv("k", STRING, string(vec![b'x'; len]))
            .tensor("t", &[8], 0, 0)
            .data(32)
            .bytes();
        let model = GgufFile::open(write(&folder, "long.gguf", &bytes)).unwrap();
        assert_eq!(model.metadata().require::<&str>("k").unwrap().len(), len);
        assert_eq!(model.tensors()[0].range().end, bytes.len() as u64);
    }
}

#[test]
fn a_header_beyond_the_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = Raw::default().kv("k", STRING, string(vec![b'x'; 400_000])).bytes();
    let path = write(&folder, "long.gguf", &bytes);
    let error =
        GgufFile::open_with(&path, &Limits::default().with_max_header_bytes(300_000)).unwrap_err();
    assert_eq!((error.class(), error.path()), (ErrorClass::Limit, Some(&*path)));
}

/// The fields of this header are small, so no single field exceeds the limit. The end of what may be
/// read must differ from the end of the bytes that were read, or the reader reads the same bytes forever.
#[test]
fn a_header_that_crosses_the_limit_in_small_steps_is_not_read_forever() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = Raw::default();
    for key in 0..30_000u32 {
        file = file.kv(key.to_string(), U8, [0]);
    }
    let path = write(&folder, "long.gguf", &file.bytes());
    let limits = Limits::default().with_max_header_bytes(300_000);
    let error = in_time(move || GgufFile::open_with(path, &limits).unwrap_err());
    assert!(
        matches!(error.without_path(), Error::Limit { value: 300_001.., limit: 300_000, .. }),
        "{error:?}"
    );
}

/// Without padding, the data are parsed as a description, whose name may be as long as the limit. The
/// parser must not request more than can be read.
#[test]
fn data_that_look_like_a_long_name_are_not_read_forever() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = Raw::default().tensor("t", &[1 << 20], 24, 0).data(1 << 20);
    let len = file.header().len();
    file = file.kv("k".repeat(32 - (len + 8 + 4 + 1) % 32), U8, [1]);
    file.data[..8].copy_from_slice(&900_000u64.to_le_bytes());
    file.data[8..].fill(b'n');
    let header = file.header().len() as u64;
    let path = write(&folder, "model.gguf", &file.bytes());
    let limits = Limits::default()
        .with_max_header_bytes(header)
        .with_max_alignment(32)
        .with_max_name_len(1 << 20);
    assert!(in_time(move || GgufFile::open_with(path, &limits)).is_ok());
}

/// Each of these shards is within the limits. Together they are not.
#[test]
fn keys_and_tensors_of_all_shards_have_one_limit() {
    let split = Split::new();
    for (limits, what, value) in [
        (Limits::default().with_max_kv(10), "the number of key-value pairs of all shards", 11),
        (Limits::default().with_max_tensors(3), "the number of tensors of all shards", 4),
    ] {
        for opened in 0..3 {
            let error = GgufFile::open_with(split.path(opened), &limits).unwrap_err();
            assert!(
                matches!(error.without_path(), Error::Limit { what: found, value: over, limit, .. }
                    if *found == what && *over == value && limit + 1 == value),
                "{error:?}"
            );
            let last = if opened == 2 { 1 } else { 2 };
            assert_eq!(error.path(), Some(&*split.path(last)));
        }
    }
    let exact = Limits::default().with_max_kv(11).with_max_tensors(4);
    assert_eq!(GgufFile::open_with(split.path(1), &exact).unwrap().tensors().len(), 4);
}

#[test]
fn memory_of_all_shards_has_one_limit() {
    let split = Split::new();
    let open = |limit| {
        let limits = Limits::default().with_max_memory(limit);
        GgufFile::open_with(split.path(0), &limits).map(|model| model.tensors().len())
    };
    let fits = (0..).step_by(512).find(|&limit| open(limit).is_ok()).unwrap();
    let errors: Vec<_> = (0..fits).step_by(512).map(|limit| open(limit).unwrap_err()).collect();
    assert!(errors.iter().all(|error| error.code() == "GGUF_OUT_OF_MEMORY"));
    for no in 0..3 {
        let is_named = |error: &Error| error.path() == Some(&*split.path(no));
        assert!(errors.iter().any(is_named), "{no} of {errors:?}");
    }
    assert_eq!(open(1 << 20).unwrap(), 4);
}

#[test]
fn truncation_is_detected_from_the_header_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = valid().bytes();
    let path = write(&folder, "short.gguf", &bytes[..bytes.len() - 1]);
    let error = GgufFile::open(&path).unwrap_err();
    assert!(matches!(error.without_path(), Error::Truncated { needed: 4, available: 3, .. }));
    assert_eq!(error.path(), Some(&*path));
    assert!(error.to_string().starts_with(&path.display().to_string()));
    assert!(error.help().is_some());
    // Also if the file ends before its data start.
    for len in [bytes.len() - 1, valid().header().len() + 1, valid().header().len()] {
        let path = write(&folder, "short.gguf", &bytes[..len]);
        let text = GgufFile::open(&path).unwrap_err().to_string();
        let missing = bytes.len() - len;
        let figures =
            format!("{missing} bytes are missing: the file has {len}, but its header requires");
        assert!(text.contains(&figures), "{text}");
    }
}

#[test]
fn a_file_that_is_not_regular_is_refused_without_blocking() {
    let folder = tempfile::tempdir().unwrap();
    // The other end of the pipe is never opened.
    let pipe = folder.path().join("pipe.gguf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let nowhere = folder.path().join("nowhere.gguf");
    let below_a_file = folder.path().join("file/model.gguf");
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (path, code) in [
        (folder.path().to_owned(), "GGUF_IO"),
        ("/dev/null".into(), "GGUF_IO"),
        (pipe, "GGUF_IO"),
        (nowhere, "FILE_NOT_FOUND"),
        (below_a_file, "FILE_NOT_FOUND"),
    ] {
        let opened = path.clone();
        let error = in_time(move || GgufFile::open(opened).unwrap_err());
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error:?}");
        assert_eq!((error.class(), error.code()), (ErrorClass::Io, code));
    }
}

#[test]
fn an_empty_file_is_truncated_by_both_ways_of_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "empty.gguf", b"");
    assert_eq!(GgufFile::open(&path).unwrap_err().code(), "GGUF_TRUNCATED");
    // SAFETY: no other process uses this folder.
    let mapped = unsafe { GgufFile::map(&path, &Limits::default()) };
    assert_eq!(mapped.unwrap_err().code(), "GGUF_TRUNCATED");
}

#[test]
fn a_mapped_model_gives_access_to_its_data() {
    let split = Split::new();
    // SAFETY: no other process uses this folder.
    let model = unsafe { GgufFile::map(split.path(0), &Limits::default()) }.unwrap();
    let tensor = model.tensor("blk.2.b").unwrap();
    assert_eq!(model.data(tensor), Some(&[33; 288][..]));
    let whole = model.shards()[2].mapped().unwrap();
    assert_eq!(whole.len() as u64, model.shards()[2].len());
}

#[test]
fn any_shard_opens_the_same_model() {
    let split = Split::new();
    for opened in 0..3 {
        let model = GgufFile::open(split.path(opened)).unwrap();
        assert_eq!(model.metadata().require::<u32>("phi3.block_count").unwrap(), 2);
        let paths: Vec<_> = model.shards().iter().map(|shard| shard.path().to_owned()).collect();
        assert_eq!(paths, [split.path(0), split.path(1), split.path(2)]);
        let tensors: Vec<_> = model.tensors().iter().map(|t| (t.shard(), t.name())).collect();
        assert_eq!(tensors, [(1, "blk.1.a"), (1, "blk.1.b"), (2, "blk.2.a"), (2, "blk.2.b")]);
        assert_eq!(model.tensor("blk.2.a").unwrap().shard(), 2);
        assert_eq!(model.tensor("blk.3.a"), None);
    }
}

#[test]
fn ranges_of_tensors_are_relative_to_their_shard() {
    let split = Split::new();
    let model = GgufFile::open(split.path(0)).unwrap();
    for tensor in model.tensors() {
        let bytes = fs::read(model.shards()[tensor.shard()].path()).unwrap();
        let range = tensor.range().start as usize..tensor.range().end as usize;
        let fill = tensor.shard() as u8 * 16 + u8::from(tensor.name().ends_with('b'));
        assert!(bytes[range].iter().all(|&byte| byte == fill));
    }
}

#[test]
fn a_missing_shard_is_named() {
    for missing in [0, 2] {
        let split = Split::new();
        fs::remove_file(split.path(missing)).unwrap();
        let kind = ShardKind::Missing { no: u64::from(missing) + 1, count: 3 };
        assert_eq!(split.shard_refusal(1, missing), kind);
        assert_eq!(split.refusal(1).class(), ErrorClass::Malformed);
    }
}

#[test]
fn a_shard_under_the_name_of_another_is_refused() {
    let split = Split::new();
    fs::copy(split.path(1), split.path(2)).unwrap();
    let kind = ShardKind::Mismatch { key: "split.no", expected: 2, found: 1 };
    assert_eq!(split.shard_refusal(0, 2), kind);
    assert_eq!(split.shard_refusal(2, 2), kind);
}

#[test]
fn a_shard_of_a_model_with_another_count_is_refused() {
    let split = Split::new();
    let mut other = GgufWriter::new();
    split.write(2, other.split(2, 4, 4));
    let kind = ShardKind::Mismatch { key: "split.count", expected: 3, found: 4 };
    assert_eq!(split.shard_refusal(0, 2), kind);
}

#[test]
fn a_complete_model_under_the_name_of_a_shard_is_refused() {
    let split = Split::new();
    fs::write(split.path(1), valid().bytes()).unwrap();
    assert!(matches!(split.shard_refusal(0, 1), ShardKind::Foreign { .. }));
    // It is not a complete model under that name either.
    assert_eq!(split.shard_refusal(1, 1), ShardKind::Whole { no: 2, count: 3 });
    assert!(split.refusal(1).help().unwrap().contains("a name that does not end in"));
}

/// The numbers of a file in its name, in its metadata and among the shards are equal.
#[test]
fn a_file_with_a_number_that_no_shard_has_is_refused() {
    for no in 0..3 {
        for (wrong_no, wrong_count) in [(0, 3), (4, 3), (no + 1, 0), (no + 1, 2), (no + 1, 4)] {
            let split = Split::new();
            let name = format!("model-{wrong_no:05}-of-{wrong_count:05}.gguf");
            let path = split.folder.path().join(name);
            // Also beside all other shards, as a copy, a hard link and a symbolic link.
            for way in 0..3 {
                match way {
                    0 => drop(fs::copy(split.path(no), &path).unwrap()),
                    1 => fs::hard_link(split.path(no), &path).unwrap(),
                    _ => std::os::unix::fs::symlink(split.path(no), &path).unwrap(),
                }
                let error = GgufFile::open(&path).unwrap_err();
                assert!(matches!(&error, Error::Shard { path: named, .. } if *named == path));
                assert!(["GGUF_SHARD_NAME", "GGUF_SHARD_MISMATCH"].contains(&error.code()));
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

#[test]
fn a_number_beyond_the_count_is_refused_under_any_name() {
    for no in [3, 4, u16::MAX] {
        let split = Split::new();
        let mut writer = GgufWriter::new();
        let bytes = writer.split(no, 3, 4).to_bytes(|_, _| ()).unwrap();
        for name in ["m-00001-of-00003.gguf", "m-00004-of-00003.gguf", "m.gguf"] {
            let error = GgufFile::open(write(&split.folder, name, &bytes)).unwrap_err();
            let kind = ShardKind::NoBeyondCount { no: no.into(), count: 3 };
            assert!(matches!(error, Error::Shard { kind: found, .. } if found == kind));
        }
    }
}

/// Tests shards in which one bit of `split.count`, or of its key, is damaged.
#[test]
fn a_shard_with_a_damaged_count_is_not_a_complete_model() {
    let folder = tempfile::tempdir().unwrap();
    let no = |no: u16| Raw::default().kv("split.no", 2, no.to_le_bytes());
    for count in [None, Some(0u16), Some(1)] {
        let with_count = |file: Raw| match count {
            Some(count) => file.kv("split.count", 2, count.to_le_bytes()),
            None => file,
        };
        let first = with_count(no(0)).bytes();
        let second = with_count(no(1)).bytes();
        for name in ["m-00000-of-00002.gguf", "m-00001-of-00002.gguf", "m-00001-of-00000.gguf"] {
            let error = GgufFile::open(write(&folder, name, &first)).unwrap_err();
            assert!(matches!(error, Error::Shard { kind: ShardKind::Whole { .. }, .. }), "{name}");
        }
        for name in ["m.gguf", "m-00001-of-00001.gguf"] {
            assert_eq!(GgufFile::open(write(&folder, name, &first)).unwrap().shards().len(), 1);
            let error = GgufFile::open(write(&folder, name, &second)).unwrap_err();
            let kind = ShardKind::Mismatch { key: "split.no", expected: 0, found: 1 };
            assert!(matches!(error, Error::Shard { kind: found, .. } if found == kind), "{name}");
        }
    }
}

/// Tests the layout of the Hugging Face cache: files are named by their hashes, and symbolic links have the
/// names.
#[test]
fn shards_are_found_next_to_the_link_that_was_opened() {
    let split = Split::new();
    let cache = tempfile::tempdir().unwrap();
    let link = |no: u16| cache.path().join(split.path(no).file_name().unwrap());
    for no in 0..3 {
        let blob = split.folder.path().join(format!("blob-{no}"));
        fs::rename(split.path(no), &blob).unwrap();
        std::os::unix::fs::symlink(blob, link(no)).unwrap();
    }
    for opened in 0..3 {
        let model = GgufFile::open(link(opened)).unwrap();
        assert_eq!((model.shards().len(), model.tensors().len()), (3, 4));
        assert_eq!(model.shards()[2].path(), link(2));
    }
}

#[test]
fn names_of_shards_need_not_be_utf8() {
    let split = Split::new();
    let renamed = |no: u16| {
        let name = [&b"\xff\xfe"[..], format!("-{:05}-of-00003.gguf", no + 1).as_bytes()].concat();
        split.folder.path().join(std::ffi::OsString::from_vec(name))
    };
    for no in 0..3 {
        fs::rename(split.path(no), renamed(no)).unwrap();
    }
    for opened in 0..3 {
        let model = GgufFile::open(renamed(opened)).unwrap();
        let paths: Vec<_> = model.shards().iter().map(|shard| shard.path().to_owned()).collect();
        assert_eq!(paths, [renamed(0), renamed(1), renamed(2)]);
        assert_eq!(model.tensors().len(), 4);
    }
    fs::remove_file(renamed(1)).unwrap();
    let error = GgufFile::open(renamed(2)).unwrap_err();
    assert_eq!(error.code(), "GGUF_SHARD_MISSING");
    assert!(error.to_string().contains("\\xff\\xfe-00002-of-00003.gguf"), "{error}");
}

#[test]
fn a_shard_of_another_architecture_is_refused() {
    let split = Split::new();
    let mut other = Split::shard(2);
    split.write(2, other.kv("general.architecture", "llama"));
    assert!(matches!(split.shard_refusal(0, 2), ShardKind::Foreign { .. }));
}

#[test]
fn shards_that_hold_too_few_or_too_many_tensors_are_refused() {
    let split = Split::new();
    let mut other = Split::shard(2);
    split.write(2, other.tensor("one.more", &[8], GgmlType::F32));
    assert_eq!(split.shard_refusal(0, 2), ShardKind::TensorCount { expected: 4, found: 5 });
    let mut other = GgufWriter::new();
    split.write(2, other.split(2, 3, 5));
    let kind = ShardKind::Mismatch { key: "split.tensors.count", expected: 4, found: 5 };
    assert_eq!(split.shard_refusal(0, 2), kind);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let split = Split::new();
    let mut other = GgufWriter::new();
    other.tensor("blk.2.a", &[8], GgmlType::F32).tensor("blk.1.b", &[8], GgmlType::F32);
    split.write(2, other.split(2, 3, 4));
    let kind = split.shard_refusal(0, 2);
    assert_eq!(kind, ShardKind::DuplicateTensor { name: "blk.1.b".into() });
    assert_eq!(split.refusal(0).code(), "GGUF_DUPLICATE_TENSOR");
}

#[test]
fn a_broken_shard_is_named() {
    let split = Split::new();
    fs::write(split.path(1), b"GGUF\x03\0\0\0").unwrap();
    let error = split.refusal(2);
    assert_eq!(error.path(), Some(&*split.path(1)));
    assert_eq!(error.code(), "GGUF_TRUNCATED");
}

#[test]
fn a_shard_that_was_renamed_is_refused_with_the_name_it_should_have() {
    let split = Split::new();
    let renamed = split.folder.path().join("model.gguf");
    fs::copy(split.path(1), &renamed).unwrap();
    let error = GgufFile::open(&renamed).unwrap_err();
    assert!(matches!(&error, Error::Shard { path, kind: ShardKind::BadName { no: 2, count: 3 } }
            if *path == renamed));
    assert!(error.to_string().contains("-00002-of-00003.gguf"));
}

#[test]
fn split_keys_of_the_wrong_type_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |no: &[u8], type_id| {
        Raw::default().kv("split.count", 2, 3u16.to_le_bytes()).kv("split.no", type_id, no).bytes()
    };
    let path = write(&folder, "m-00001-of-00003.gguf", &file(&string("0"), STRING));
    let error = GgufFile::open(&path).unwrap_err();
    assert!(matches!(error.without_path(), Error::WrongType { key, .. } if key == "split.no"));
    let path = write(&folder, "m-00001-of-00003.gguf", &file(&[0xff; 4], 5));
    assert_eq!(GgufFile::open(&path).unwrap_err().code(), "GGUF_VALUE_OUT_OF_RANGE");
    let no_number = Raw::default().kv("split.count", U8, [3]).bytes();
    let path = write(&folder, "m-00001-of-00003.gguf", &no_number);
    assert_eq!(GgufFile::open(&path).unwrap_err().code(), "GGUF_MISSING_KEY");
}

#[test]
fn more_shards_than_the_limit_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let file = Raw::default()
        .kv("split.count", 2, 60_000u16.to_le_bytes())
        .kv("split.no", 2, 0u16.to_le_bytes())
        .bytes();
    let path = write(&folder, "m-00001-of-60000.gguf", &file);
    let error = GgufFile::open(&path).unwrap_err();
    assert!(matches!(error.without_path(), Error::Limit { value: 60_000, .. }), "{error:?}");
}

#[test]
fn a_count_of_one_or_zero_is_a_model_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    for count in [0u16, 1] {
        let file = Raw::default().kv("split.count", 2, count.to_le_bytes()).bytes();
        let model = GgufFile::open(write(&folder, "model.gguf", &file)).unwrap();
        assert_eq!(model.shards().len(), 1);
    }
}

#[test]
fn the_header_stays_valid_when_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "model.gguf", &valid().bytes());
    let model = GgufFile::open(&path).unwrap();
    fs::write(&path, b"").unwrap();
    assert_eq!(model.metadata().require::<&str>("general.architecture").unwrap(), "phi3");
    assert_eq!(model.tensors()[0].name(), "token_embd.weight");
    assert!(model.shards()[0].file().metadata().unwrap().len() < model.shards()[0].len());
}

#[test]
fn models_can_be_sent_to_and_shared_by_threads() {
    fn cross<T: Send + Sync>(_: &T) {}
    let folder = tempfile::tempdir().unwrap();
    let model = GgufFile::open(write(&folder, "model.gguf", &valid().bytes())).unwrap();
    cross(&model);
    assert!(format!("{model:?}").contains(&*Path::new("model.gguf").to_string_lossy()));
}

#[test]
fn shards_that_were_joined_are_refused_under_any_name() {
    let split = Split::new();
    let mut joined = Vec::new();
    for no in 0..3 {
        joined.extend(fs::read(split.path(no)).unwrap());
    }
    let first = fs::read(split.path(0)).unwrap().len() as u64;
    let path = split.folder.path().join("joined.gguf");
    for path in [path, split.path(0)] {
        fs::write(&path, &joined).unwrap();
        let error = GgufFile::open(&path).unwrap_err();
        assert!(
            matches!(&error, Error::Shard { path: named, kind: ShardKind::Joined { no: 1, count: 3, at } }
                if *named == path && *at == first),
            "{error:?}"
        );
        assert!(error.help().unwrap().contains("llama-gguf-split --merge"));
    }
    assert!(matches!(split.shard_refusal(2, 0), ShardKind::Joined { .. }));
}

#[test]
fn data_after_the_last_tensor_give_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = valid().bytes();
    let end = bytes.len();
    let warnings = |bytes: &[u8]| {
        let model = GgufFile::open(write(&folder, "model.gguf", bytes)).unwrap();
        model.warnings().cloned().collect::<Vec<_>>()
    };
    assert_eq!(warnings(&bytes), []);
    // The last tensor may have padding, which must be zero.
    bytes.resize(end.next_multiple_of(32), 0);
    let padded = bytes.len();
    assert!(padded > end);
    assert_eq!(warnings(&bytes), []);
    bytes[padded - 1] = 1;
    let [padding] = &warnings(&bytes)[..] else { panic!("one warning") };
    assert_eq!(padding.code(), "GGUF_NONZERO_PADDING");
    assert!(padding.to_string().ends_with(&format!(
        "model.gguf: the padding after tensor \"scale\" is not zero at byte {}: the tensor ends at byte \
         {end}, the file at byte {padded}",
        padded - 1
    )));
    bytes[padded - 1] = 0;
    bytes.push(0);
    let [trailing] = &warnings(&bytes)[..] else { panic!("one warning") };
    assert_eq!(trailing.code(), "GGUF_TRAILING_DATA");
    let text = trailing.to_string();
    assert!(
        text.ends_with(&format!(
            "1 bytes follow the last tensor and its padding: \"scale\" ends at byte {end}, the file at byte \
             {}",
            padded + 1
        )),
        "{text}"
    );
    assert!(!trailing.help().is_empty());
}

#[test]
fn nonzero_padding_between_tensors_gives_a_warning_that_names_the_shard() {
    let split = Split::new();
    let mut writer = GgufWriter::new();
    writer.tensor("blk.2.a", &[1], GgmlType::F32).tensor("blk.2.b", &[8], GgmlType::F32);
    writer.split(2, 3, 4);
    let mut bytes = writer.to_bytes(|_, data| data.fill(7)).unwrap();
    let place = writer.layout().unwrap().ranges()[0].end;
    fs::write(split.path(2), &bytes).unwrap();
    assert_eq!(GgufFile::open(split.path(0)).unwrap().warnings().count(), 0);
    bytes[place as usize + 3] = 9;
    fs::write(split.path(2), &bytes).unwrap();
    let model = GgufFile::open(split.path(0)).unwrap();
    let [warning] = &model.warnings().collect::<Vec<_>>()[..] else { panic!("one warning") };
    let text = warning.to_string();
    assert!(text.contains("-00003-of-00003.gguf: the padding after tensor \"blk.2.a\""), "{text}");
    assert!(text.contains(&format!("at byte {}: the tensor ends at byte {place}, ", place + 3)));
}

/// A warning says what is not checked.
#[test]
fn the_number_of_warnings_and_of_padding_bytes_read_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = GgufWriter::new();
    for i in 0..100_000 {
        writer.tensor(format!("{i}"), &[1], GgmlType::F32);
    }
    let mut bytes = writer.to_bytes(|_, _| ()).unwrap();
    let ranges = writer.layout().unwrap().ranges().to_vec();
    let codes = |bytes: &[u8]| {
        let model = GgufFile::open(write(&folder, "model.gguf", bytes)).unwrap();
        model.warnings().map(gguf_format::Warning::code).collect::<Vec<_>>()
    };
    let last = ranges[99_998].end as usize;
    bytes[last] = 1;
    assert_eq!(codes(&bytes), ["GGUF_NONZERO_PADDING"]);
    let start = ranges[0].start as usize;
    bytes[start..].fill(1);
    let mut all = vec!["GGUF_NONZERO_PADDING"; 16];
    all.push("GGUF_UNCHECKED_PADDING");
    assert_eq!(codes(&bytes), all);
}

#[test]
fn padding_of_any_alignment_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |tensors: u32, alignment: u32| {
        let mut writer = GgufWriter::new();
        writer.alignment(alignment);
        for i in 0..tensors {
            writer.tensor(format!("{i}"), &[1], GgmlType::F32);
        }
        let layout = writer.layout().unwrap();
        let path = write(&folder, "model.gguf", layout.header());
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(layout.file_len()).unwrap();
        // The last byte of the last padding between tensors.
        let at = layout.ranges().last().unwrap().start - 1;
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], at).unwrap();
        let model = GgufFile::open(&path).unwrap();
        model.warnings().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (tensors, alignment) in [(2, 1 << 20), (15, 256 << 10), (16, 16 << 20)] {
        let [warning] = &warnings(tensors, alignment)[..] else { panic!("one warning") };
        assert!(
            warning.contains(&format!("after tensor \"{}\" is not zero", tensors - 2)),
            "{warning}"
        );
    }
    // Sixteen times 16 MiB minus 4 bytes were read.
    let [warning] = &warnings(19, 16 << 20)[..] else { panic!("one warning") };
    let figures =
        "after tensor \"16\" and later tensors was not checked; 268435392 bytes of padding";
    assert!(warning.contains(figures), "{warning}");
}

/// Forty sparse shards, each with a header near the limit: the limit applies to all headers together.
#[test]
fn the_headers_of_all_shards_have_one_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = |no: u16| folder.path().join(format!("m-{:05}-of-00040.gguf", no + 1));
    let write = |no: u16, text_len: u64| {
        let mut head = Raw::default()
            .kv("split.count", 2, 40u16.to_le_bytes())
            .kv("split.no", 2, no.to_le_bytes())
            .kv("k", STRING, text_len.to_le_bytes());
        head.kv_count = Some(3);
        let bytes = head.bytes();
        let len = bytes.len() as u64 + text_len;
        fs::write(path(no), bytes).unwrap();
        fs::File::options().write(true).open(path(no)).unwrap().set_len(len).unwrap();
    };
    for no in 0..40 {
        write(no, 47 << 20);
    }
    let error = GgufFile::open(path(0)).unwrap_err();
    assert!(
        matches!(error.without_path(), Error::Limit { what, limit, .. }
            if what.contains("all shards") && *limit == 48 << 20),
        "{error:?}"
    );
    assert_eq!(error.path(), Some(&*path(1)));
    for no in 0..40 {
        write(no, 1 << 20);
    }
    assert_eq!(GgufFile::open(path(39)).unwrap().shards().len(), 40);
}
