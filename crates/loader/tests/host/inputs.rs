//! Tests of the inputs of a load: paths and open files.

use crate::common::{go_on, model_path};
use loader::{DeviceChoice, Input, LoadEvent, LoadOptions, LoadedModel, Loader};
use std::fs::File;
use std::io::Seek;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn loader() -> Loader {
    Loader::new(LoadOptions::new().device(DeviceChoice::Host))
}

/// Returns the digests of all weights.
fn weights(model: &LoadedModel) -> loader::Fingerprint {
    model.fingerprint().unwrap()
}

#[test]
fn an_open_file_loads_like_its_path() {
    let path = model_path("fused-f16.gguf");
    let mut loader = loader();
    let want = weights(&loader.load(&path, &mut go_on).unwrap());
    let mut file = File::open(&path).unwrap();
    // The position of the cursor does not matter.
    file.seek(std::io::SeekFrom::End(0)).unwrap();
    assert_eq!(weights(&loader.load_file(file, &mut go_on).unwrap()), want);
    let fd = OwnedFd::from(File::open(&path).unwrap());
    assert_eq!(Input::from(File::open(&path).unwrap()).path(), path.canonicalize().unwrap());
    assert_eq!(weights(&loader.load(fd, &mut go_on).unwrap()), want);
    let inspected = loader.inspect(File::open(&path).unwrap()).unwrap();
    assert_eq!(inspected.tensors().len(), loader.inspect(&path).unwrap().tensors().len());
}

#[test]
fn an_open_file_needs_no_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
    let (gone, replaced) = (File::open(&path).unwrap(), File::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let mut loader = loader();
    loader.load(gone, &mut go_on).unwrap();
    std::fs::write(&path, "another file").unwrap();
    loader.load(replaced, &mut go_on).unwrap();
    let error = loader.load(File::open(&path).unwrap(), &mut go_on).unwrap_err();
    assert_eq!(error.code(), "GGUF_BAD_MAGIC");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}

/// Loads an open file, and changes something when its header has been read.
fn load_while(path: &Path, change: impl Fn(&Path)) -> Result<LoadedModel, loader::Error> {
    loader().load_file(File::open(path).unwrap(), &mut |event: &LoadEvent<'_>| {
        if matches!(event, LoadEvent::Opened { .. }) {
            change(path);
        }
        ControlFlow::Continue(())
    })
}

#[test]
fn the_names_of_an_open_file_may_change_during_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let other = folder.path().join("other");
    let changes: [&dyn Fn(&Path); 4] = [
        &|path| std::fs::remove_file(path).unwrap(),
        &|path| std::fs::rename(path, &other).unwrap(),
        &|path| std::fs::hard_link(path, folder.path().join("link")).unwrap(),
        &|path| {
            std::fs::write(&other, "another file").unwrap();
            std::fs::rename(&other, path).unwrap();
        },
    ];
    for change in changes {
        std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
        load_while(&path, change).unwrap();
        std::fs::remove_file(&path).ok();
    }
}

#[test]
fn the_content_of_an_open_file_may_not_change_during_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let open = |path: &Path| File::options().write(true).open(path).unwrap();
    let changes: [&dyn Fn(&Path); 3] = [
        &|path| open(path).write_all_at(&[7], 5000).unwrap(),
        &|path| open(path).set_len(5000).unwrap(),
        &|path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, bytes).unwrap();
        },
    ];
    for change in changes {
        std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
        let error = load_while(&path, change).unwrap_err();
        assert_eq!(error.code(), "FILE_CHANGED", "{error}");
    }
}

#[test]
fn files_that_cannot_be_opened_have_codes_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let code = |input: Input| {
        let error = loader().load(input, &mut go_on).unwrap_err();
        assert_eq!((error.exit_code(), error.class().name()), (7, "MODEL_LOAD_FAILED"));
        assert!(!error.retriable());
        error.code()
    };
    assert_eq!(code((&path).into()), "FILE_NOT_FOUND");
    assert_eq!(code(folder.path().into()), "GGUF_IO");
    assert_eq!(code(File::open(folder.path()).unwrap().into()), "GGUF_IO");
    std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
    assert_eq!(code(path.join("below").into()), "FILE_NOT_FOUND");
    let write_only = File::options().write(true).open(&path).unwrap();
    assert_eq!(code(write_only.into()), "GGUF_IO");
}

#[test]
fn everything_that_is_a_path_is_an_input() {
    let path = "model.gguf";
    for input in [
        Input::from(path),
        path.to_owned().into(),
        (&path.to_owned()).into(),
        Path::new(path).into(),
        Path::new(path).to_owned().into(),
        (&Path::new(path).to_owned()).into(),
        std::ffi::OsString::from(path).into(),
    ] {
        assert_eq!(input.path(), Path::new(path));
    }
}
