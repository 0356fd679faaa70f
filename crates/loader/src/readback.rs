//! Compares the weights on the device with the file, value by value.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::host_memory;
use crate::scales::Scales;
use crate::source::Source;
use crate::transfer::copy_op;
use cuda_sys::{
    CopyOp, Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, ErrorCode, Io, Request,
    StagingRing,
};
use model_phi3::{LoadPlan, PlanOp};
use std::ops::Range;

const CONFIG: EngineConfig = EngineConfig::new(4, 4, 1 << 20, 1 << 20);

/// Bytes on the device that are compared at a time. The token is checked before each window. A multiple of the
/// size of a decoded (f16) block of every type.
const WINDOW_BYTES: u64 = 8 << 20;

/// Decodes the whole file again in host memory and compares the result with the weights on the device. Needs
/// host memory for three windows and a staging ring, independent of the size of the model.
pub(crate) fn compare(
    plan: &LoadPlan,
    source: &Source,
    buffer: &DeviceBuffer,
    token: &CancelToken,
) -> Result<(), Error> {
    Comparison::new(source, WINDOW_BYTES.min(plan.device_bytes()))?.run(plan, buffer, token)
}

/// A part of an operation that consists of whole blocks.
struct Piece<'a> {
    op: &'a PlanOp,
    scale: Option<f32>,
    source: Range<u64>,
    /// Range in the arena.
    dest: Range<u64>,
}

/// Cuts the operation into pieces whose destination is no longer than a window.
fn pieces(op: &PlanOp, scale: Option<f32>, window_bytes: u64) -> impl Iterator<Item = Piece<'_>> {
    let (source, dest) = (&op.source.range, &op.dest);
    let source_step = op.conversion.source_bytes(window_bytes);
    (0..(dest.end - dest.start).div_ceil(window_bytes)).map(move |index| {
        let (from, to) = (source.start + index * source_step, dest.start + index * window_bytes);
        Piece {
            op,
            scale,
            source: from..source.end.min(from + source_step),
            dest: to..dest.end.min(to + window_bytes),
        }
    })
}

/// Groups consecutive pieces so that each group fits into a window of the arena. Thus small tensors are
/// compared together.
fn windows<'a>(
    plan: &'a LoadPlan,
    scales: &'a Scales,
    window_bytes: u64,
) -> impl Iterator<Item = Vec<Piece<'a>>> {
    let ops = plan.ops().iter().zip(scales.iter());
    let mut pieces = ops.flat_map(move |(op, scale)| pieces(op, scale, window_bytes)).peekable();
    std::iter::from_fn(move || {
        let first = pieces.next()?;
        let (start, mut end) = (first.dest.start, first.dest.end);
        let mut window = vec![first];
        while let Some(next) =
            pieces.next_if(|next| next.dest.start >= end && next.dest.end - start <= window_bytes)
        {
            end = next.dest.end;
            window.push(next);
        }
        Some(window)
    })
}

/// State of one comparison.
struct Comparison<'a> {
    source: &'a Source,
    window_bytes: u64,
    engine: Engine,
    /// The window as decoded from the file.
    reproduced: DeviceBuffer,
    expected: Vec<u8>,
    found: Vec<u8>,
}

impl<'a> Comparison<'a> {
    fn new(source: &'a Source, window_bytes: u64) -> Result<Self, Error> {
        const PURPOSE: &str = "comparing the weights with the file";
        host_memory::check(CONFIG.ring_bytes().saturating_add(3 * window_bytes), PURPOSE)?;
        let host = Device::open(DeviceKind::Host)?;
        let refused = |error: cuda_sys::Error| match error.code() {
            ErrorCode::OutOfMemory => Error::HostMemory { what: error.to_string() },
            _ => Error::Engine(error),
        };
        Ok(Self {
            source,
            window_bytes,
            engine: Engine::new(&host, StagingRing::new(CONFIG)?)?,
            reproduced: host.allocate(window_bytes).map_err(refused)?,
            expected: host_memory::zeroed(window_bytes, PURPOSE)?,
            found: host_memory::zeroed(window_bytes, PURPOSE)?,
        })
    }

    fn run(
        &mut self,
        plan: &LoadPlan,
        buffer: &DeviceBuffer,
        token: &CancelToken,
    ) -> Result<(), Error> {
        let scales = Scales::read(plan, self.source)?;
        for window in windows(plan, &scales, self.window_bytes) {
            token.check()?;
            self.compare(&window, buffer, token)?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        window: &[Piece<'_>],
        buffer: &DeviceBuffer,
        token: &CancelToken,
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (window.first(), window.last()) else { return Ok(()) };
        let start = first.dest.start;
        self.reproduce(window, start, token)?;
        let len = index_of(last.dest.end - start);
        let (expected, found) = (&mut self.expected[..len], &mut self.found[..len]);
        self.reproduced.read(0, expected)?;
        buffer.read(start, found)?;
        for Piece { op, dest, .. } in window {
            let range = index_of(dest.start - start)..index_of(dest.end - start);
            let (found, expected) = (&found[range.clone()], &expected[range]);
            if found == expected {
                continue;
            }
            let pairs = found.iter().zip(expected);
            let equal = pairs.take_while(|(found, expected)| found == expected).count();
            return Err(Error::Verification {
                what: format!(
                    "tensor {} differs from the file at byte {} of {} on {}",
                    gguf_format::escape(op.tensor.as_ref()),
                    dest.start - op.dest.start + equal as u64,
                    op.dest.end - op.dest.start,
                    buffer.device()
                ),
            });
        }
        Ok(())
    }

    /// Decodes the pieces in host memory, at their positions in the window.
    fn reproduce(
        &mut self,
        window: &[Piece<'_>],
        start: u64,
        token: &CancelToken,
    ) -> Result<(), Error> {
        let ops: Vec<_> = window
            .iter()
            .map(|piece| CopyOp {
                source_offset: piece.source.start,
                source_bytes: piece.source.end - piece.source.start,
                dest_offset: piece.dest.start - start,
                dest_bytes: piece.dest.end - piece.dest.start,
                unit: 0,
                ..copy_op(piece.op, piece.scale, None)
            })
            .collect();
        let done = self.engine.execute(
            Request::new(&self.source.files(), Io::Read, &ops, 1),
            &mut self.reproduced,
            &mut |_| token.flow(),
        );
        done.map(drop).map_err(|error| self.source.engine_error(error))
    }
}

/// Converts a position in a window to an index. It always fits, because windows fit into memory.
fn index_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Unobserved;
    use crate::options::{DeviceChoice, LoadOptions};
    use crate::test_plan;
    use crate::{LoadedModel, Loader};
    use gguf_format::Limits;
    use std::path::Path;

    #[test]
    fn windows_cover_the_file_and_the_arena_exactly_once() {
        for (plan, window_bytes) in [
            (test_plan::mini(), WINDOW_BYTES),
            (test_plan::tiny(), WINDOW_BYTES),
            (test_plan::tiny(), 2048),
        ] {
            let scales = Scales::none(&plan);
            let mut pieces = windows(&plan, &scales, window_bytes).flat_map(|window| {
                let start = window[0].dest.start;
                assert!(window.is_sorted_by_key(|piece| piece.dest.start));
                assert!(window[window.len() - 1].dest.end - start <= window_bytes);
                assert!(window.iter().all(|piece| (piece.dest.start - start).is_multiple_of(16)));
                window
            });
            for op in plan.ops() {
                let (mut source, mut dest) = (op.source.range.start, op.dest.start);
                while dest < op.dest.end {
                    let piece = pieces.next().unwrap();
                    assert_eq!(piece.op.tensor, op.tensor);
                    assert_eq!((piece.source.start, piece.dest.start), (source, dest));
                    assert!(piece.dest.end > dest);
                    (source, dest) = (piece.source.end, piece.dest.end);
                }
                assert_eq!((source, dest), (op.source.range.end, op.dest.end));
            }
            assert!(pieces.next().is_none());
        }
    }

    #[test]
    fn small_tensors_are_compared_together() {
        let plan = test_plan::tiny();
        let most = plan.device_bytes().div_ceil(WINDOW_BYTES) as usize;
        assert!(plan.ops().len() > 2 * most);
        assert!(windows(&plan, &Scales::none(&plan), WINDOW_BYTES).count() <= most + 1);
    }

    fn compared(model: &LoadedModel, source: &Source, window_bytes: u64) -> Result<(), Error> {
        let mut comparison = Comparison::new(source, window_bytes)?;
        comparison.run(&model.plan, &model.buffer, &CancelToken::new())
    }

    #[test]
    fn a_flipped_bit_in_any_piece_is_found_and_its_position_named() {
        const SMALL: u64 = 2048;
        for name in ["fused-f16", "fused-k-quants", "split-q8_0"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../testdata/models")
                .join(name)
                .with_extension("gguf");
            let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
            let mut model = loader.load(&path, &mut Unobserved).unwrap();
            let source = Source::open(&(&path).into(), &Limits::default()).unwrap();
            for window_bytes in [SMALL, WINDOW_BYTES] {
                compared(&model, &source, window_bytes).unwrap();
            }
            let ops = model.plan.ops().to_vec();
            for op in [&ops[0], &ops[ops.len() / 2], &ops[ops.len() - 1]] {
                let len = op.dest.end - op.dest.start;
                for at in [0, len / 2, len - 1] {
                    let place = op.dest.start + at;
                    let mut byte = [0];
                    model.buffer.read(place, &mut byte).unwrap();
                    model.buffer.write(place, &[byte[0] ^ 4]).unwrap();
                    for window_bytes in [SMALL, WINDOW_BYTES] {
                        let error = compared(&model, &source, window_bytes).unwrap_err();
                        let what = format!(
                            "verification failed: tensor {} differs from the file at byte {at} of \
                             {len} on host",
                            op.tensor
                        );
                        assert_eq!(error.to_string(), what);
                    }
                    model.buffer.write(place, &byte).unwrap();
                }
            }
        }
    }
}
