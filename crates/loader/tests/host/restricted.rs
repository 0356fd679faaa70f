//! Loads of files that may only be read.

use crate::common::{go_on, model_path};
use loader::{DeviceChoice, Io, LoadOptions, Loader, Verify};
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_read_only_file_loads_by_path_and_by_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("read-only.gguf");
    std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    let writable = std::fs::metadata(dir.path()).unwrap().permissions();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
    let file = File::open(&path).unwrap();
    let by_descriptor = format!("/dev/fd/{}", file.as_raw_fd());
    for io in [Io::Auto, Io::Mapped, Io::Read, Io::Direct] {
        let options = LoadOptions::new().device(DeviceChoice::Host).verify(Verify::Readback).io(io);
        let mut loader = Loader::new(options);
        for path in [path.as_path(), by_descriptor.as_ref()] {
            loader.load(path, &mut go_on).unwrap_or_else(|error| panic!("{io:?}: {error}"));
        }
    }
    std::fs::set_permissions(dir.path(), writable).unwrap();
}
