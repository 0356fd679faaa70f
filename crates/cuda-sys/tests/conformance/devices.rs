//! Memory of a device, and its use by several threads.

use super::bench::{Bench, content, copy, file_of, noise};
use super::examining::digest_by_definition;
use super::{SMALL, Setup};
use cuda_sys::{Device, ErrorCode, Io};

/// A request for more memory than any device has fails with its own code.
pub(crate) fn absurd_allocations_are_out_of_memory(setup: Setup) {
    let device = Device::open(setup.device).unwrap();
    let error = setup.allocate(&device, 1 << 52).unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
    assert!(setup.allocate(&device, 1 << 20).is_ok());
}

/// The driver reports the device of a buffer, and ranges outside the buffer are refused.
pub(crate) fn buffers_report_their_device(setup: Setup) {
    let device = Device::open(setup.device).unwrap();
    let memory = device.memory().unwrap().unwrap();
    assert!(memory.free > 0 && memory.free <= memory.total);
    let buffer = setup.allocate(&device, 1000).unwrap();
    assert_eq!(buffer.address() % 256, 0);
    assert_eq!(buffer.device(), setup.device);
    let location = buffer.locate(999).unwrap();
    assert_eq!((location.device, location.address), (setup.device, buffer.address() + 999));
    for offset in [1000, u64::MAX] {
        assert_eq!(buffer.locate(offset).unwrap_err().code(), ErrorCode::InvalidArgument);
    }
    let error = buffer.read(1, &mut [0; 1000]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    buffer.read(1000, &mut []).unwrap();
}

/// Buffers and engines may be made on one thread, used on another and dropped on a third.
pub(crate) fn handles_move_between_threads(setup: Setup) {
    let bytes = noise(50_000);
    let file = file_of(&bytes);
    let mut bench = std::thread::spawn(move || Bench::new(setup, SMALL)).join().unwrap();
    let (bench, got) = std::thread::spawn(move || {
        let got = bench.load(&file, Io::Read, &[copy(0, 50_000, 0, 0)], 50_000).unwrap();
        (bench, got)
    })
    .join()
    .unwrap();
    assert_eq!(got, bytes);
    std::thread::spawn(move || drop(bench)).join().unwrap();
}

/// Several engines on one device do not disturb each other.
pub(crate) fn engines_run_side_by_side(setup: Setup) {
    let bytes = noise(500_000);
    let file = file_of(&bytes);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut bench = Bench::new(setup, SMALL);
                for _ in 0..3 {
                    let op = copy(0, 500_000, 0, 0);
                    assert_eq!(bench.load(&file, Io::Read, &[op], 500_000).unwrap(), bytes);
                }
            });
        }
    });
}

/// Threads that share a buffer read, digest and locate it at once.
pub(crate) fn several_threads_can_use_one_buffer(setup: Setup) {
    let device = Device::open(setup.device).unwrap();
    let bytes = noise(1 << 20);
    let mut buffer = setup.allocate(&device, 1 << 20).unwrap();
    buffer.write(0, &bytes).unwrap();
    let want = [digest_by_definition(&bytes[..1 << 19]), digest_by_definition(&bytes[1 << 19..])];
    let ranges = [0..1 << 19, 1 << 19..1 << 20];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(buffer.digests(&ranges).unwrap(), want);
                    assert!(content(&buffer) == bytes);
                    assert_eq!(buffer.locate(0).unwrap().device, setup.device);
                }
            });
        }
    });
}
