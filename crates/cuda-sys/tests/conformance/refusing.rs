//! Files that cannot be read, and requests that break the contract.

use super::bench::{Bench, copy, decode, decoder, file_of, noise};
use super::{IOS, SMALL, Setup};
use cuda_sys::{
    Conversion, CopyOp, Device, Engine, EngineConfig, ErrorCode, FloatFormat, Io, Request,
    SourceFile, StagingRing,
};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

/// If a file is shorter than when its operations were checked, the error has its own code.
pub(crate) fn a_truncated_file_is_noticed(setup: Setup) {
    let file = file_of(&noise(100_000));
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(100_000);
    for io in IOS {
        file.set_len(100_000).unwrap();
        let sources = [SourceFile { file: file.as_fd(), bytes: 100_000 }.into()];
        file.set_len(60_000).unwrap();
        let error = bench
            .execute(
                Request::new(&sources, io, &[copy(0, 100_000, 0, 0)], 1),
                &mut dest,
                &mut |_| ControlFlow::Continue(()),
            )
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::FileTruncated, "{io:?}");
        assert!(error.context().contains("ended at byte 60000"), "{io:?}: {error}");
    }
}

/// If a descriptor cannot be read, the error is an I/O error with errno.
pub(crate) fn a_failing_read_carries_errno(setup: Setup) {
    let directory = File::open("/").unwrap();
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(16);
    let sources = [SourceFile { file: directory.as_fd(), bytes: 16 }.into()];
    let error = bench
        .execute(Request::new(&sources, Io::Read, &[copy(0, 16, 0, 0)], 1), &mut dest, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
    let eisdir = 21;
    assert_eq!((error.code(), error.status()), (ErrorCode::Io, eisdir));
}

/// Operations that would read or write outside their ranges are refused before anything moves.
pub(crate) fn bad_operations_are_refused(setup: Setup) {
    let file = file_of(&noise(4096));
    let q8_0 = decoder(8);
    let mut bench = Bench::new(setup, SMALL);
    let good = copy(0, 4096, 0, 0);
    let cases: &[(&str, Vec<CopyOp>)] = &[
        ("source end", vec![CopyOp { source_offset: 1, ..good }]),
        ("source wraps", vec![CopyOp { source_offset: u64::MAX, ..good }]),
        ("destination end", vec![CopyOp { dest_offset: 16, ..good }]),
        ("destination wraps", vec![CopyOp { dest_offset: u64::MAX - 15, ..good }]),
        (
            "destination alignment",
            vec![CopyOp { source_bytes: 8, dest_bytes: 8, dest_offset: 8, ..good }],
        ),
        ("source", vec![CopyOp { source: 1, ..good }]),
        ("unit", vec![CopyOp { unit: 1, ..good }]),
        ("sizes", vec![CopyOp { dest_bytes: 2048, ..good }]),
        ("half a block", vec![CopyOp { source_bytes: 33, ..decode(&q8_0, 0, 1, 0) }]),
        ("decoded size", vec![CopyOp { dest_bytes: 128, ..decode(&q8_0, 0, 1, 0) }]),
        ("unknown type", vec![CopyOp { conversion: Conversion::ToF16 { ggml_type: 4 }, ..good }]),
        (
            "the number that stands for no type",
            vec![CopyOp { conversion: Conversion::ToF16 { ggml_type: u32::MAX }, ..good }],
        ),
        ("half a float", vec![CopyOp { floats: Some(FloatFormat::F32), ..copy(0, 4094, 0, 0) }]),
        ("overlap", vec![copy(0, 64, 0, 0), copy(64, 64, 48, 0)]),
        ("lane", vec![CopyOp { lane: setup.lanes, ..good }]),
    ];
    let sources = [SourceFile { file: file.as_fd(), bytes: 4096 }.into()];
    for (name, ops) in cases {
        // The last operation is refused.
        let operation = ops.len() as u32;
        let ops = [&[copy(0, 0, 0, 0)], ops.as_slice()].concat();
        let mut dest = bench.arena(4096);
        let request = Request { digest: true, ..Request::new(&sources, Io::Read, &ops, 1) };
        let error =
            bench.execute(request, &mut dest, &mut |_| ControlFlow::Continue(())).expect_err(name);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}: {error}");
        assert_eq!(error.operation(), Some(operation), "{name}: {error}");
        let of_destination = name.starts_with("destination") || *name == "overlap";
        assert_eq!(error.lane(), of_destination.then_some(0), "{name}: {error}");
        assert_eq!(error.source_file(), None, "{name}: {error}");
    }
    assert_eq!(bench.load(&file, Io::Read, &[good], 4096).unwrap(), noise(4096));
}

/// Configurations outside the documented range are refused.
pub(crate) fn bad_configurations_are_refused(setup: Setup) {
    let device = Device::open(setup.device).unwrap();
    let devices = vec![&device; setup.lanes as usize];
    for config in [
        EngineConfig { readers: 0, ..SMALL },
        EngineConfig { readers: 257, depth: 1, ..SMALL },
        EngineConfig { storage_readers: 257, ..SMALL },
        EngineConfig { depth: 0, ..SMALL },
        EngineConfig { readers: 1, depth: 1025, ..SMALL },
        EngineConfig { chunk_bytes: (1 << 30) + 1, ..SMALL },
        EngineConfig { chunk_bytes: u64::MAX, ..SMALL },
    ] {
        let made = StagingRing::new(config).and_then(|ring| Engine::with_lanes(&devices, ring));
        assert_eq!(made.unwrap_err().code(), ErrorCode::InvalidArgument, "{config:?}");
    }
}
