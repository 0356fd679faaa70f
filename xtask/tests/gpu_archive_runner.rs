//! Tests the runner of the GPU archive with small scripts in place of the archive's programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const GPU: &str = r#"{"schema_version": 1, "devices": [{"kind": "cuda", "ordinal": 0}]}"#;
const NO_GPU: &str = r#"{"schema_version": 1, "devices": [{"kind": "host"}]}"#;

fn script(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("a file to write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode to set");
}

/// Returns an archive whose loader reports `devices` and whose test programs are the scripts in `tests`.
fn archive(devices: &str, tests: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu_archive/run.sh");
    fs::copy(runner, folder.path().join("run.sh")).expect("the runner");
    script(&folder.path().join("phi3-loader"), &format!("echo '{devices}'"));
    fs::create_dir(folder.path().join("tests")).expect("a folder to make");
    for (index, body) in tests.iter().enumerate() {
        script(&folder.path().join(format!("tests/{index}")), body);
    }
    folder
}

fn run(archive: &TempDir, arguments: &[&str]) -> (Output, String) {
    let output = Command::new("sh")
        .arg(archive.path().join("run.sh"))
        .args(arguments)
        .output()
        .expect("a shell");
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or("").to_owned();
    (output, last)
}

fn reports(passed: u32, failed: u32) -> String {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    format!(
        "echo 'test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         0 filtered out; finished in 0.01s'; exit {}",
        i32::from(failed > 0) * 101
    )
}

#[test]
fn results_of_all_programs_are_added_up() {
    let (output, last) = run(&archive(GPU, &[&reports(3, 0), &reports(12, 0)]), &[]);
    assert_eq!((output.status.code(), last.as_str()), (Some(0), "15 passed, 0 failed"));
}

#[test]
fn a_failed_test_fails_the_run_and_the_others_still_run() {
    let (output, last) = run(&archive(GPU, &[&reports(3, 2), &reports(12, 0)]), &[]);
    assert_eq!((output.status.code(), last.as_str()), (Some(1), "15 passed, 2 failed"));
}

#[test]
fn a_crash_counts_as_a_failure() {
    let crash = "echo 'running 3 tests'; kill -SEGV $$";
    let (output, last) = run(&archive(GPU, &[crash, &reports(1, 0)]), &[]);
    assert_eq!((output.status.code(), last.as_str()), (Some(1), "1 passed, 1 failed"));
}

#[test]
fn a_run_without_tests_fails() {
    let (output, last) = run(&archive(GPU, &[&reports(0, 0)]), &[]);
    assert_eq!((output.status.code(), last.as_str()), (Some(1), "0 passed, 0 failed"));
}

#[test]
fn without_a_gpu_the_run_fails_with_a_message() {
    let (output, _) = run(&archive(NO_GPU, &[&reports(3, 0)]), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no GPU"));
}

#[test]
fn programs_get_the_paths_and_the_arguments() {
    let check = r#"
        [ "$PHI3_LOADER_BIN" = "$(dirname "$(dirname "$0")")/phi3-loader" ] || exit 2
        [ "$PHI3_LOADER_TESTDATA" = "$(dirname "$(dirname "$0")")/testdata" ] || exit 3
        [ "$*" = "--exact a name" ] || exit 4"#;
    let archive = archive(GPU, &[&format!("{check}\n{}", reports(1, 0))]);
    let (output, last) = run(&archive, &["--exact", "a name"]);
    assert_eq!((output.status.code(), last.as_str()), (Some(0), "1 passed, 0 failed"));
}
