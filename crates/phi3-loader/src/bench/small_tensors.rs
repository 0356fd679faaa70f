//! Measures the fixed cost of a tensor: compares many small tensors with one tensor of the same total size.

use super::document::{SmallTensors, Spread};
use crate::args::Bench;
use crate::failure::Failure;
use cuda_sys::{CopyOp, Device, DeviceBuffer, Engine, Io, Request, SourceFile, StagingRing};
use loader::measure::engine_config;
use loader::{CancelToken, Error};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

const MOST_TENSORS: u64 = 10_000;
const TENSOR_BYTES: u64 = 4096;

/// Moves the first bytes of the file as if they were small tensors. Their destinations are in reverse order, so
/// that the engine cannot merge two of them into one copy.
pub(super) fn measure(
    arguments: &Bench,
    device: &Device,
    path: &Path,
    token: &CancelToken,
) -> Result<SmallTensors, Failure> {
    let read_failed = |source| Failure::Read(path.to_owned(), source);
    let file = File::open(path).map_err(read_failed)?;
    let tensors = (file.metadata().map_err(read_failed)?.len() / TENSOR_BYTES).min(MOST_TENSORS);
    let bytes = tensors * TENSOR_BYTES;
    let config = engine_config(&arguments.choices.options(), device.kind(), bytes);
    let ring = StagingRing::new(config).map_err(Error::from)?;
    let mut engine = Engine::new(device, ring).map_err(Error::from)?;
    let mut dest = device.allocate(bytes).map_err(Error::from)?;
    let many: Vec<_> = (0..tensors)
        .map(|index| {
            CopyOp::copy(index * TENSOR_BYTES, TENSOR_BYTES, (tensors - 1 - index) * TENSOR_BYTES)
        })
        .collect();
    let mut transfer = |ops: &[CopyOp]| -> Result<Spread, Error> {
        let source = SourceFile { file: file.as_fd(), bytes };
        // The first transfer loads code and allocates device memory, so it is not counted.
        run(&mut engine, source, ops, &mut dest, token)?;
        let seconds: Result<Vec<_>, _> = (0..arguments.repeat)
            .map(|_| run(&mut engine, source, ops, &mut dest, token))
            .collect();
        Ok(Spread::of(seconds?))
    };
    Ok(SmallTensors {
        tensors,
        tensor_bytes: TENSOR_BYTES,
        seconds: transfer(&many)?,
        seconds_as_one: transfer(&[CopyOp::copy(0, bytes, 0)])?,
    })
}

fn run(
    engine: &mut Engine,
    source: SourceFile<'_>,
    ops: &[CopyOp],
    dest: &mut DeviceBuffer,
    token: &CancelToken,
) -> Result<f64, Error> {
    let stats =
        engine.execute(Request::new(&[source.into()], Io::Read, ops, 1), dest, &mut |_| {
            token.flow()
        })?;
    Ok(stats.seconds)
}
