//! Progress, cancellation, and panics of the observer.

use super::bench::{Arena, Bench, copy, file_of, noise};
use super::{SMALL, Setup};
use cuda_sys::{CopyOp, ErrorCode, Io};
use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Units are reported in order, the last report is complete, and bytes never go back.
pub(crate) fn reports_progress_in_order(setup: Setup) {
    let file = file_of(&noise(1 << 20));
    let ops: Vec<_> = (0..16)
        .map(|unit| copy(u64::from(unit) << 16, 1 << 16, u64::from(unit) << 16, unit))
        .collect();
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(1 << 20);
    let mut seen = Vec::new();
    bench
        .run(&file, Io::Read, &ops, 16, &mut dest, &mut |progress| {
            seen.push((progress.units_done, progress.bytes_done));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(seen.is_sorted_by_key(|(units, _)| *units));
    assert!(seen.is_sorted_by_key(|(_, bytes)| *bytes));
    assert_eq!(seen.last(), Some(&(16, 1 << 20)));
}

/// Makes `interrupted` end a transfer of many chunks after its first unit, again and again until one
/// transfer is incomplete. Then completes one.
///
/// A single transfer may end before its observer runs.
fn stops_early(
    setup: Setup,
    mut interrupted: impl FnMut(&mut Bench, &File, &[CopyOp], &mut Arena),
) {
    const UNITS: u64 = 64;
    const UNIT_BYTES: u64 = 256 << 10;
    let bytes = noise((UNITS * UNIT_BYTES) as usize);
    let file = file_of(&bytes);
    let ops: Vec<_> = (0..UNITS)
        .map(|unit| copy(unit * UNIT_BYTES, UNIT_BYTES, unit * UNIT_BYTES, unit as u32))
        .collect();
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(bytes.len() as u64);
    let stopped = (0..50).any(|_| {
        dest.write(&vec![0; bytes.len()]);
        interrupted(&mut bench, &file, &ops, &mut dest);
        dest.content() != bytes
    });
    assert!(stopped, "every interrupted transfer went on to its end");
    assert!(bench.load(&file, Io::Read, &ops, bytes.len() as u64).unwrap() == bytes);
}

/// A cancelled call has its own error code, and the engine works again afterwards.
pub(crate) fn cancelling_stops_and_leaves_the_engine_usable(setup: Setup) {
    stops_early(setup, |bench, file, ops, dest| {
        let units = ops.len() as u32;
        let error = bench
            .run(file, Io::Read, ops, units, dest, &mut |_| ControlFlow::Break(()))
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::Cancelled);
    });
}

/// A panic in the observer continues with its payload after the engine has cleaned up.
pub(crate) fn observer_panics_cross_the_bridge_safely(setup: Setup) {
    stops_early(setup, |bench, file, ops, dest| {
        let units = ops.len() as u32;
        let payload = catch_unwind(AssertUnwindSafe(|| {
            bench.run(file, Io::Read, ops, units, dest, &mut |_| panic!("observer gave up"))
        }))
        .unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"observer gave up"));
    });
}
