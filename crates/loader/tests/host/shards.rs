//! Compares loads of split models with loads of the same models in one file, in host memory.

use crate::common::go_on;
use crate::resident::{self, Shelf};
use crate::small_model::phi3_keys;
use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use loader::{
    DeviceChoice, Error, Input, Io, LoadEvent, LoadOptions, LoadedModel, Loader, Mismatch,
    Resident, Storage,
};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SHARDS: usize = 3;

/// Some of these tensors are copied, others are decoded.
const TENSORS: [(&str, &[u64], GgmlType); 9] = [
    ("token_embd.weight", &[32, 8], GgmlType::F16),
    ("blk.0.attn_norm.weight", &[32], GgmlType::F32),
    ("blk.0.attn_qkv.weight", &[32, 96], GgmlType::Q8_0),
    ("blk.0.attn_output.weight", &[32, 32], GgmlType::F16),
    ("blk.0.ffn_norm.weight", &[32], GgmlType::F32),
    ("blk.0.ffn_up.weight", &[32, 128], GgmlType::Q4_0),
    ("blk.0.ffn_down.weight", &[64, 32], GgmlType::BF16),
    ("output_norm.weight", &[32], GgmlType::F32),
    ("output.weight", &[32, 8], GgmlType::Q8_0),
];

/// A folder with one model, as one file and as shards.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("whole.gguf", &phi3_keys(), 0..TENSORS.len());
        for no in 0..SHARDS {
            files.write_shard(no, if no == 0 { phi3_keys() } else { GgufWriter::new() });
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shard(&self, no: usize) -> PathBuf {
        self.path(&format!("model-{:05}-of-{SHARDS:05}.gguf", no + 1))
    }

    /// Writes shard `no`: the keys of `writer` and a third of the tensors.
    fn write_shard(&self, no: usize, mut writer: GgufWriter) {
        let third = TENSORS.len() / SHARDS;
        writer.split(no as u16, SHARDS as u16, TENSORS.len() as i32);
        let name = self.shard(no);
        self.write(
            name.file_name().unwrap().to_str().unwrap(),
            &writer,
            no * third..(no + 1) * third,
        );
    }

    fn write(&self, name: &str, writer: &GgufWriter, tensors: std::ops::Range<usize>) {
        let mut writer = writer.clone();
        for (name, dims, ggml_type) in &TENSORS[tensors.clone()] {
            writer.tensor(*name, dims, *ggml_type);
        }
        // The data depend only on the tensor, not on the file that contains it.
        let bytes = writer.to_bytes(|index, data| {
            for (at, byte) in data.iter_mut().enumerate() {
                *byte = ((tensors.start + index) * 89 + at * 31 + at / 7) as u8;
            }
        });
        std::fs::write(self.path(name), bytes.unwrap()).unwrap();
    }
}

fn load(path: &Path, storage: Storage) -> Result<LoadedModel, Error> {
    let options = LoadOptions::new().device(DeviceChoice::Host).storage(storage);
    Loader::new(options).load(path, &mut go_on)
}

fn slots(model: &LoadedModel) -> Vec<(String, Vec<u8>)> {
    let slots = model.plan().whole().slots().iter().map(|planned| planned.slot);
    slots.map(|slot| (slot.to_string(), model.read_slot(slot).unwrap().unwrap())).collect()
}

#[test]
fn a_split_model_has_the_weights_of_the_unsplit_file() {
    let files = Files::new();
    for storage in [Storage::F16, Storage::Native] {
        let whole = load(&files.path("whole.gguf"), storage).unwrap();
        for opened in 0..SHARDS {
            let split = load(&files.shard(opened), storage).unwrap();
            assert_eq!(split.config(), whole.config());
            assert_eq!(split.vram_bytes(), whole.vram_bytes());
            assert_eq!(split.stats().source_bytes, whole.stats().source_bytes);
            assert!(slots(&split) == slots(&whole), "opened by shard {opened}, {storage:?}");
        }
    }
}

#[test]
fn shards_whose_names_are_not_utf8_load() {
    let files = Files::new();
    let renamed = |no: usize| {
        let end = format!("-{:05}-of-{SHARDS:05}.gguf", no + 1);
        files.folder.path().join(OsString::from_vec([b"\xff", end.as_bytes()].concat()))
    };
    for no in 0..SHARDS {
        std::fs::rename(files.shard(no), renamed(no)).unwrap();
    }
    let whole = load(&files.path("whole.gguf"), Storage::F16).unwrap();
    for opened in 0..SHARDS {
        assert!(slots(&load(&renamed(opened), Storage::F16).unwrap()) == slots(&whole));
    }
}

/// Without this check the load would read only one of the shards.
#[test]
fn a_file_name_with_shard_number_zero_is_refused() {
    let files = Files::new();
    let path = files.path(&format!("model-00000-of-{SHARDS:05}.gguf"));
    std::fs::copy(files.shard(0), &path).unwrap();
    let error = load(&path, Storage::F16).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("GGUF_SHARD_NAME", 3), "{error}");
    assert!(error.to_string().contains("model-00000-of-"), "{error}");
}

/// Checks that the error of a load has this code, exit code 3 and the name of this shard.
#[track_caller]
fn refused(files: &Files, opened: usize, code: &str, named: usize) {
    let error = load(&files.shard(opened), Storage::F16).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), (code, 3), "{error}");
    let name = files.shard(named);
    assert!(error.to_string().contains(name.to_str().unwrap()), "{error}");
    assert!(error.help().is_some(), "{error}");
}

#[test]
fn a_missing_shard_is_named() {
    for missing in [0, 2] {
        let files = Files::new();
        std::fs::remove_file(files.shard(missing)).unwrap();
        refused(&files, 1, "GGUF_SHARD_MISSING", missing);
    }
}

#[test]
fn a_shard_of_another_model_is_named() {
    let files = Files::new();
    std::fs::copy(files.path("whole.gguf"), files.shard(2)).unwrap();
    refused(&files, 0, "GGUF_SHARD_MISMATCH", 2);

    let mut other = GgufWriter::new();
    other.kv("general.architecture", "llama");
    files.write_shard(2, other);
    refused(&files, 0, "GGUF_SHARD_MISMATCH", 2);

    std::fs::copy(files.shard(1), files.shard(2)).unwrap();
    refused(&files, 0, "GGUF_SHARD_MISMATCH", 2);
}

#[test]
fn a_shard_that_is_truncated_during_the_load_is_named() {
    for io in [Io::Auto, Io::Read, Io::Mapped, Io::Direct] {
        for cut in 0..SHARDS {
            let files = Files::new();
            let mut truncate = |event: &LoadEvent<'_>| {
                if matches!(event, LoadEvent::Allocated { .. }) {
                    let shard = OpenOptions::new().write(true).open(files.shard(cut)).unwrap();
                    shard.set_len(100).unwrap();
                }
                ControlFlow::Continue(())
            };
            let options = LoadOptions::new().device(DeviceChoice::Host).io(io);
            let error = Loader::new(options).load(files.shard(0), &mut truncate).unwrap_err();
            assert_eq!(error.code(), "FILE_CHANGED", "{error}");
            let name = files.shard(cut);
            assert!(error.to_string().contains(name.to_str().unwrap()), "{io:?}: {error}");
        }
    }
}

#[test]
fn a_truncated_shard_is_named() {
    let files = Files::new();
    let bytes = std::fs::read(files.shard(1)).unwrap();
    std::fs::write(files.shard(1), &bytes[..bytes.len() / 2]).unwrap();
    refused(&files, 0, "GGUF_TRUNCATED", 1);
}

#[test]
fn the_other_shards_of_an_open_file_are_found_by_its_name() {
    let files = Files::new();
    let want = load(&files.shard(0), Storage::F16).unwrap();
    let file = std::fs::File::open(files.shard(1)).unwrap();
    let options = LoadOptions::new().device(DeviceChoice::Host);
    let loaded = Loader::new(options).load_file(file, &mut go_on).unwrap();
    assert_eq!(loaded.fingerprint().unwrap(), want.fingerprint().unwrap());
}

#[test]
fn shards_of_two_models_are_not_mixed_if_the_name_of_an_open_file_leads_elsewhere() {
    let files = Files::new();
    let old = std::fs::File::open(files.shard(0)).unwrap();
    let new = Files::new();
    for no in 0..SHARDS {
        std::fs::rename(new.shard(no), files.shard(no)).unwrap();
    }
    let loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    // The input takes the file's name after the replacement: it ends in " (deleted)".
    let error = loader.plan(old).unwrap_err();
    assert_eq!(error.code(), "GGUF_SHARD_NAME", "{error}");

    let input = Input::from(std::fs::File::open(files.shard(0)).unwrap());
    let newest = Files::new();
    for no in 0..SHARDS {
        std::fs::rename(newest.shard(no), files.shard(no)).unwrap();
    }
    let error = loader.plan(input).unwrap_err();
    assert_eq!(error.code(), "FILE_CHANGED", "{error}");
}

#[test]
fn a_shard_that_cannot_be_read_is_named() {
    let files = Files::new();
    std::fs::remove_file(files.shard(1)).unwrap();
    std::fs::create_dir(files.shard(1)).unwrap();
    let error = load(&files.shard(2), Storage::F16).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("GGUF_IO", 7), "{error}");
    let name = files.shard(1);
    assert!(error.to_string().contains(name.to_str().unwrap()), "{error}");
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.downcast_ref::<gguf_format::IoError>().is_some(), "{cause:?}");
}

#[test]
fn the_weights_of_a_split_file_are_attached_without_it() {
    let files = Files::new();
    let options = LoadOptions::new().device(DeviceChoice::Host);
    let mut shelf = Shelf::default();
    let model = resident::load(&options, &files.shard(1), &mut shelf, Mismatch::Fail).unwrap();
    assert_eq!(shelf.only().manifest.files.len(), SHARDS);
    let again = resident::load(&options, &files.shard(2), &mut shelf, Mismatch::Fail).unwrap();
    assert_eq!(again.stats().resident, Resident::Attached, "any shard leads to the model");
    drop(files);
    let attached = resident::attach(shelf.only()).unwrap();
    resident::assert_equal(&attached, &model);
}
