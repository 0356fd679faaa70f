//! The errors without a usable driver. No test needs a GPU: each starts this program again with a driver of its own
//! in `LD_LIBRARY_PATH`, because the CUDA runtime looks for the driver once in a process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::env;
use std::ffi::{c_char, c_int, c_void};
use std::fs;
use std::path::Path;
use std::process::Command;

use cuda_sys::{Device, DeviceKind, Error, ErrorCode};
use tempfile::TempDir;

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
}
const RTLD_LAZY: c_int = 1;

const CUDA_SUCCESS: u32 = 0;
const CUDA_ERROR_NO_DEVICE: u32 = 100;

/// What a process finds out about the GPUs: the results of listing them and of opening the first one.
#[derive(Debug, PartialEq, Eq)]
struct Findings {
    listed: String,
    opened: String,
}

/// Compiles a driver without GPUs into a new folder.
fn driver(version: u32, init: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/libcuda.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.path().join("libcuda.so.1"))
        .args([format!("-DVERSION={version}"), format!("-DINIT={init}")])
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success());
    folder
}

/// Runs [`print_findings`] in a process that looks for the driver in `folder` first.
fn findings_with(folder: &Path) -> Findings {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "print_findings", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let line = |label: &str| {
        let found = printed.lines().find_map(|line| line.strip_prefix(label));
        found.unwrap_or_else(|| panic!("no line {label}: {printed}")).to_owned()
    };
    Findings { listed: line("listed: "), opened: line("opened: ") }
}

#[test]
#[ignore = "the other tests run it in processes of their own"]
fn print_findings() {
    let failed = |error: &Error| {
        assert_eq!(error.code(), ErrorCode::DeviceUnavailable);
        error.to_string()
    };
    let listed = cuda_sys::cuda_devices().map(|devices| format!("{} GPUs", devices.len()));
    let opened = Device::open(DeviceKind::Cuda(0)).map(|device| device.name().unwrap());
    // The first lines continue the harness's own line.
    println!();
    println!("listed: {}", listed.unwrap_or_else(|error| failed(&error)));
    println!("opened: {}", opened.unwrap_or_else(|error| failed(&error)));
}

/// Lists and opens with the same message.
fn message_with(folder: &Path) -> String {
    let Findings { listed, opened } = findings_with(folder);
    assert_eq!(listed, opened);
    listed
}

/// Cannot be tested on a machine that has a driver.
#[test]
fn a_missing_driver_is_named() {
    // SAFETY: the name ends with NUL. Loading the driver only runs its initialisers.
    if !unsafe { dlopen(c"libcuda.so.1".as_ptr(), RTLD_LAZY) }.is_null() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let message = message_with(empty.path());
    assert!(message.starts_with("no NVIDIA driver: libcuda.so.1 not found ("), "{message}");
}

#[test]
fn a_driver_that_is_too_old_is_named_with_both_versions() {
    let message = message_with(driver(11_080, CUDA_SUCCESS).path());
    assert!(message.contains("the NVIDIA driver is too old: it supports CUDA 11.8"), "{message}");
    let needed = message.split("this build needs CUDA ").nth(1).unwrap();
    assert!(needed.starts_with("12.") || needed.starts_with("13."), "{message}");
}

#[test]
fn a_driver_that_cannot_be_loaded_is_not_missing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libcuda.so.1"), "not a library").unwrap();
    let message = message_with(folder.path());
    assert!(message.starts_with("the NVIDIA driver cannot be loaded: "), "{message}");
    assert!(message.contains("libcuda.so.1") && !message.contains("not found"), "{message}");
}

#[test]
fn a_driver_without_gpus_lists_none() {
    let findings = findings_with(driver(99_000, CUDA_ERROR_NO_DEVICE).path());
    assert_eq!(findings.listed, "0 GPUs");
    assert_eq!(findings.opened, "CUDA device 0 does not exist: no GPU is visible");
}
