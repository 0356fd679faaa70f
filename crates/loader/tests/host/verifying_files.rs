//! Files that are verified without a load.

use crate::common::model_path;
use loader::{CancelToken, Error, FileReport, VerifyFileOptions, verify_file};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

fn verify(path: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<FileReport, Error> {
    verify_file(path, &VerifyFileOptions::default(), progress, &CancelToken::new())
}

#[test]
fn progress_grows_to_the_length_of_the_file() {
    let path = model_path("fused-f16.gguf");
    let seen = Mutex::new(Vec::new());
    let report = verify(&path, &|done, of| seen.lock().unwrap().push((done, of))).unwrap();
    let len = path.metadata().unwrap().len();
    let seen = seen.into_inner().unwrap();
    assert!(report.is_ok() && report.error().is_none());
    assert!(seen.is_sorted() && seen.iter().all(|(_, of)| *of == len));
    assert_eq!(seen.last(), Some(&(len, len)));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    type Change = fn(&File);
    let changes: [Change; 2] =
        [|file| file.write_all_at(b"x", 9000).unwrap(), |file| file.set_len(9000).unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for change in changes {
        std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let error = verify(&path, &|_, _| change(&file)).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7), "{error}");
    }
}

#[test]
fn verifying_can_be_cancelled_and_leaves_no_thread_that_waits() {
    let path = model_path("fused-f16.gguf");
    let token = CancelToken::new();
    let cancel = |_, _| token.cancel();
    let error = verify_file(&path, &VerifyFileOptions::default(), &cancel, &token).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    let panics = || verify(&path, &|_, _| panic!("of the caller")).map(drop);
    let panic = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"of the caller"));
}

#[test]
fn an_open_file_is_verified_and_compared_like_a_path() {
    let mut options = VerifyFileOptions::default();
    options.sha256 = Some("0".repeat(64));
    let file = File::open(model_path("fused-f16.gguf")).unwrap();
    let report = verify_file(file, &options, &|_, _| (), &CancelToken::new()).unwrap();
    let error = report.error().unwrap();
    assert_eq!((error.code(), error.exit_code()), ("FILE_DAMAGED", 9));
    assert!(error.to_string().contains("the sha256 of "), "{error}");
}
