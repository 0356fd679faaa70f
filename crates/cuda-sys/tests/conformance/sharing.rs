//! Memory that other processes can map, and that can be protected and resized.

use super::bench::{Bench, content, copy, file_of, noise};
use super::{SMALL, Setup};
use cuda_sys::{
    Access, Device, DeviceBuffer, DeviceKind, Error, ErrorCode, Io, Progress, SharedMemory,
};
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const BYTES: u64 = (5 << 20) + 123;

fn import(
    device: &Device,
    shares: &[SharedMemory],
    bytes: u64,
    access: Access,
) -> Result<DeviceBuffer, Error> {
    let views: Vec<_> = shares.iter().map(|of| (of.descriptor.as_fd(), of.bytes)).collect();
    device.import(&views, bytes, access)
}

/// Returns memory with noise, and the noise.
fn filled(device: &Device) -> (DeviceBuffer, Vec<u8>) {
    let bytes = noise(BYTES as usize);
    let mut buffer = device.allocate_shareable(BYTES).unwrap();
    buffer.write(0, &bytes).unwrap();
    (buffer, bytes)
}

/// Memory that was shared has the same bytes for everyone who maps it, also after its first owner is gone.
pub(crate) fn other_processes_can_map_shared_memory(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let (mut buffer, bytes) = filled(&device);
    buffer.protect().unwrap();
    let digest = buffer.digests(std::slice::from_ref(&(0..BYTES))).unwrap();
    let shares = buffer.share().unwrap();
    let beside = import(&device, &shares, BYTES, Access::ReadOnly).unwrap();
    assert!(content(&beside) == bytes);
    drop(buffer);
    let after = import(&device, &shares, BYTES, Access::ReadOnly).unwrap();
    drop(shares);
    for imported in [&beside, &after] {
        assert_eq!((imported.len(), imported.device()), (BYTES, kind));
        assert_eq!(imported.address() % 256, 0);
        assert!(content(imported) == bytes);
        assert_eq!(imported.digests(std::slice::from_ref(&(0..BYTES))).unwrap(), digest);
        let location = imported.locate(BYTES - 1).unwrap();
        assert_eq!((location.device, location.address), (kind, imported.address() + BYTES - 1));
        assert_eq!(imported.host_bytes().is_some(), kind == DeviceKind::Host);
    }
    assert_ne!(beside.address(), after.address());
}

/// Neither a write nor a load changes memory that is protected or was imported read-only.
pub(crate) fn protected_memory_is_not_written(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let (mut buffer, bytes) = filled(&device);
    assert!(buffer.is_writable());
    buffer.protect().unwrap();
    let shares = buffer.share().unwrap();
    let imported = import(&device, &shares, BYTES, Access::ReadOnly).unwrap();
    let mut bench = Bench::new(Setup::shareable(kind), SMALL);
    let file = file_of(&[0; 4096]);
    for mut protected in [buffer, imported] {
        assert!(!protected.is_writable());
        let error = protected.write(7, &[1]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
        let mut arena = bench.arena(0);
        arena.lanes = vec![protected];
        let go_on = &mut |_: Progress<'_>| ControlFlow::Continue(());
        let ops = [copy(0, 4096, 0, 0)];
        let error = bench.run(&file, Io::Read, &ops, 1, &mut arena, go_on).unwrap_err();
        assert_eq!((error.code(), error.lane()), (ErrorCode::InvalidArgument, Some(0)), "{error}");
        assert!(content(&arena.lanes[0]) == bytes);
    }
}

/// Memory that was shared before it was protected can be imported for writing. Protected memory of the host can not.
pub(crate) fn imported_memory_can_be_written(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let (mut buffer, _) = filled(&device);
    let shares = buffer.share().unwrap();
    let mut imported = import(&device, &shares, BYTES, Access::ReadWrite).unwrap();
    imported.write(BYTES - 3, b"abc").unwrap();
    let mut end = [0; 3];
    buffer.read(BYTES - 3, &mut end).unwrap();
    assert_eq!(&end, b"abc");
    for writable in [&buffer, &imported] {
        assert_eq!(writable.host_bytes(), None, "the bytes may change at any time");
    }
    if kind == DeviceKind::Host {
        let error = import(&device, &shares, BYTES, Access::ReadOnly).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ForeignMemory, "{error}");
        assert!(error.context().contains("its content is not sealed"), "{error}");
        let (mut sealed, _) = filled(&device);
        sealed.protect().unwrap();
        let error = import(&device, &sealed.share().unwrap(), BYTES, Access::ReadWrite);
        assert_eq!(error.unwrap_err().code(), ErrorCode::ForeignMemory);
    }
}

/// Descriptors that are not the memory of the device are refused, and none stays open.
pub(crate) fn descriptors_of_other_things_are_refused(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let (mut buffer, _) = filled(&device);
    buffer.protect().unwrap();
    let shares = buffer.share().unwrap();
    drop(import(&device, &shares, BYTES, Access::ReadOnly).unwrap());
    let (pipe, mut writer) = std::io::pipe().unwrap();
    let others: [OwnedFd; 4] = [
        file_of(&noise(BYTES as usize)).into(),
        File::open("/dev/zero").unwrap().into(),
        File::open("/").unwrap().into(),
        pipe.into(),
    ];
    let own = || shares.iter().map(|of| (of.descriptor.as_fd(), of.bytes));
    let mut wrong: Vec<(Vec<(BorrowedFd<'_>, u64)>, u64)> = Vec::new();
    wrong.extend(others.iter().map(|other| (vec![(other.as_fd(), BYTES)], BYTES)));
    wrong.push((Vec::new(), BYTES));
    wrong.push((own().collect(), 2 * BYTES + (64 << 20)));
    wrong.push((own().map(|(file, bytes)| (file, bytes * 64)).collect(), BYTES));
    for (views, bytes) in wrong {
        let error = device.import(&views, bytes, Access::ReadOnly).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ForeignMemory, "{views:?} {bytes}: {error}");
    }
    drop(import(&device, &shares, BYTES, Access::ReadOnly).unwrap());
    drop(others);
    let error = writer.write(&[0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "no copy of the pipe is open");
}

/// Memory keeps working through any sequence of sizes. Protection ends with a new size. Shared memory keeps its size.
pub(crate) fn memory_can_grow_and_shrink(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let mut buffer = device.allocate_shareable(1000).unwrap();
    for bytes in [1000, BYTES, 3 * BYTES, 5, 0, 2 * BYTES, 2 * BYTES + 1] {
        buffer.resize(bytes).unwrap();
        assert_eq!((buffer.len(), buffer.is_writable()), (bytes, true));
        let noise = noise(bytes as usize);
        buffer.write(0, &noise).unwrap();
        assert!(content(&buffer) == noise, "{bytes}");
        buffer.protect().unwrap();
    }
    let error = buffer.resize(1 << 52).unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutOfMemory, "{error}");
    assert_eq!(buffer.len(), 0);
    buffer.resize(BYTES).unwrap();
    buffer.write(0, &noise(BYTES as usize)).unwrap();
    let shares = buffer.share().unwrap();
    let error = buffer.resize(1).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
    let mut imported = import(&device, &shares, BYTES, Access::ReadWrite).unwrap();
    assert_eq!(imported.resize(1).unwrap_err().code(), ErrorCode::InvalidArgument);
    assert!(content(&imported) == noise(BYTES as usize));
}

/// Memory of `allocate` is for its own process.
pub(crate) fn plain_memory_is_not_shared(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let mut buffer = device.allocate(4096).unwrap();
    for result in
        [buffer.share().map(drop), buffer.protect(), buffer.resize(1), buffer.give_access(&device)]
    {
        assert_eq!(result.unwrap_err().code(), ErrorCode::InvalidArgument);
    }
    assert!(buffer.is_writable());
}

/// The identity of a device can be part of a name in other systems.
pub(crate) fn identities_are_printable(kind: DeviceKind) {
    let identity = Device::open(kind).unwrap().identity().unwrap();
    match kind {
        DeviceKind::Host => assert_eq!(identity, "host"),
        DeviceKind::Cuda(_) => {
            let uuid = identity.strip_prefix("GPU-").unwrap();
            assert_eq!(uuid.len(), 36);
            assert!(uuid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
        }
    }
    assert_eq!(Device::open(kind).unwrap().identity().unwrap(), identity);
}
