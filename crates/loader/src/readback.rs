//! Compares the weights on the device with the file, value by value.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use crate::host_memory;
use crate::loader::emit;
use crate::part::LoadedPart;
use crate::scales::Scales;
use crate::source::Source;
use crate::transfer::{copy_op, least_chunk_bytes, moves};
use cuda_sys::{
    CopyOp, Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, ErrorCode, Io, Request,
    StagingRing,
};
use model_phi3::PlacedOp;
use std::ops::Range;

const CONFIG: EngineConfig = EngineConfig::new(4, 4, 1 << 20, 1 << 20);

/// Bytes on the device that are compared at a time. The token is checked before each window. A multiple of the
/// size of a decoded (f16) block of every type.
const WINDOW_BYTES: u64 = 8 << 20;

/// Decodes the whole file again in host memory, for each part, and compares the result with the weights on the device.
/// Needs host memory for three windows and a staging ring, independent of the size of the model.
pub(crate) fn compare(
    parts: &[LoadedPart],
    source: &Source,
    observer: &mut dyn Observer,
    token: &CancelToken,
) -> Result<(), Error> {
    let bytes = parts.iter().map(LoadedPart::vram_bytes).max().unwrap_or(0);
    Comparison::new(source, parts, WINDOW_BYTES.min(bytes))?.run(parts, observer, token)
}

/// A part of an operation that consists of whole blocks and, if the operation cuts columns, of whole rows.
struct Piece<'a> {
    op: &'a PlacedOp,
    scale: Option<f32>,
    source: Range<u64>,
    /// Range in the arena.
    dest: Range<u64>,
}

/// The engine accepts destinations that are multiples of this number of bytes.
const DEST_ALIGNMENT: u64 = 16;

/// Returns the smallest number of rows after which a piece of an operation on columns can end.
fn rows_of_step(op: &PlacedOp) -> u64 {
    (1..DEST_ALIGNMENT)
        .find(|rows| (rows * op.dest_row_bytes).is_multiple_of(DEST_ALIGNMENT))
        .unwrap_or(DEST_ALIGNMENT)
}

/// Returns the smallest window that the pieces of an operation fit into.
fn window_of(op: &PlacedOp) -> u64 {
    if op.is_rows() { 0 } else { rows_of_step(op) * op.dest_row_bytes }
}

/// Cuts the operation into pieces whose destination is no longer than a window.
fn pieces(op: &PlacedOp, scale: Option<f32>, window_bytes: u64) -> impl Iterator<Item = Piece<'_>> {
    let (source, dest) = (&op.source.range, &op.dest);
    let (source_step, dest_step) = if op.is_rows() {
        (op.conversion.source_bytes(window_bytes), window_bytes)
    } else {
        let step = window_of(op);
        let rows = window_bytes / step * rows_of_step(op);
        (rows * op.row_stride, rows * op.dest_row_bytes)
    };
    (0..(dest.end - dest.start).div_ceil(dest_step)).map(move |index| {
        let (from, to) = (source.start + index * source_step, dest.start + index * dest_step);
        Piece {
            op,
            scale,
            source: from..source.end.min(from + source_step),
            dest: to..dest.end.min(to + dest_step),
        }
    })
}

/// Groups consecutive pieces so that each group fits into a window of the arena. Thus small tensors are
/// compared together.
fn windows<'a>(
    ops: impl Iterator<Item = (&'a PlacedOp, Option<f32>)>,
    window_bytes: u64,
) -> impl Iterator<Item = Vec<Piece<'a>>> {
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
    fn new(source: &'a Source, parts: &[LoadedPart], window_bytes: u64) -> Result<Self, Error> {
        let ops = parts.iter().flat_map(|part| part.plan().ops());
        let window_bytes = ops.map(window_of).fold(window_bytes, u64::max);
        const PURPOSE: &str = "comparing the weights with the file";
        let least = parts.first().map_or(0, |first| least_chunk_bytes(&first.of.plan));
        let config = EngineConfig { chunk_bytes: CONFIG.chunk_bytes.max(least), ..CONFIG };
        host_memory::check(config.ring_bytes().saturating_add(3 * window_bytes), PURPOSE)?;
        let host = Device::open(DeviceKind::Host)?;
        let refused = |error: cuda_sys::Error| match error.code() {
            ErrorCode::OutOfMemory => Error::HostMemory { what: error.to_string() },
            _ => Error::Engine(error),
        };
        Ok(Self {
            source,
            window_bytes,
            engine: Engine::new(&host, StagingRing::new(config)?)?,
            reproduced: host.allocate(window_bytes).map_err(refused)?,
            expected: host_memory::zeroed(window_bytes, PURPOSE)?,
            found: host_memory::zeroed(window_bytes, PURPOSE)?,
        })
    }

    fn run(
        &mut self,
        parts: &[LoadedPart],
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<(), Error> {
        let Some(first) = parts.first() else { return Ok(()) };
        let plan = &first.of.plan;
        let scales = Scales::read(plan.whole(), self.source)?;
        let moves = moves(plan);
        let of_bytes = moves.iter().map(|of| length(&of.op.dest)).sum();
        let mut bytes = 0;
        for part in parts {
            let of_part = moves.iter().filter(|of| of.part == part.index());
            let ops = of_part.map(|of| (of.op, scales.of(of.tensor)));
            for window in windows(ops, self.window_bytes) {
                token.check()?;
                self.compare(&window, part, token)?;
                bytes += window.iter().map(|piece| length(&piece.dest)).sum::<u64>();
                emit(observer, &LoadEvent::Compared { bytes, of_bytes })?;
            }
        }
        Ok(())
    }

    fn compare(
        &mut self,
        window: &[Piece<'_>],
        part: &LoadedPart,
        token: &CancelToken,
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (window.first(), window.last()) else { return Ok(()) };
        let start = first.dest.start;
        self.reproduce(window, start, token)?;
        let len = index_of(last.dest.end - start);
        let (expected, found) = (&mut self.expected[..len], &mut self.found[..len]);
        self.reproduced.read(0, expected)?;
        part.buffer.read(start, found)?;
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
                    part.name()
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
                ..copy_op(piece.op, piece.scale)
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

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
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
    use model_phi3::SplitMode;
    use std::path::Path;

    #[test]
    fn windows_cover_the_file_and_the_arena_exactly_once() {
        for (plan, window_bytes) in [
            (test_plan::mini(), WINDOW_BYTES),
            (test_plan::tiny(), WINDOW_BYTES),
            (test_plan::tiny(), 2048),
        ] {
            let ops = plan.parts()[0].ops();
            let mut pieces = windows(without_scales(ops), window_bytes).flat_map(|window| {
                let start = window[0].dest.start;
                assert!(window.is_sorted_by_key(|piece| piece.dest.start));
                assert!(window[window.len() - 1].dest.end - start <= window_bytes);
                assert!(window.iter().all(|piece| (piece.dest.start - start).is_multiple_of(16)));
                window
            });
            for op in ops {
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

    fn without_scales(ops: &[PlacedOp]) -> impl Iterator<Item = (&PlacedOp, Option<f32>)> {
        ops.iter().map(|op| (op, None))
    }

    #[test]
    fn small_tensors_are_compared_together() {
        let plan = test_plan::tiny();
        let ops = plan.parts()[0].ops();
        let most = plan.device_bytes().div_ceil(WINDOW_BYTES) as usize;
        assert!(ops.len() > 2 * most);
        assert!(windows(without_scales(ops), WINDOW_BYTES).count() <= most + 1);
    }

    #[test]
    fn pieces_of_columns_are_whole_rows() {
        let plan = test_plan::tiny_on_two(SplitMode::Tensor);
        let columns = |op: &&PlacedOp| !op.is_rows();
        let ops: Vec<_> = plan.parts()[1].ops().iter().filter(columns).collect();
        assert!(!ops.is_empty());
        for op in ops {
            let pieces: Vec<_> = pieces(op, None, window_of(op)).collect();
            assert_eq!(pieces.len() as u64, (op.rows.end - op.rows.start) / rows_of_step(op));
            for (index, piece) in (0..).zip(&pieces) {
                let row = index * rows_of_step(op);
                assert_eq!(piece.source.start, op.source.range.start + row * op.row_stride);
                assert_eq!(piece.dest.start, op.dest.start + row * op.dest_row_bytes);
                assert!(piece.dest.start.is_multiple_of(DEST_ALIGNMENT));
            }
            let last = pieces.last().unwrap();
            assert_eq!((last.source.end, last.dest.end), (op.source.range.end, op.dest.end));
        }
    }

    fn compared(model: &LoadedModel, source: &Source, window_bytes: u64) -> Result<(), Error> {
        let mut comparison = Comparison::new(source, &model.parts, window_bytes)?;
        comparison.run(&model.parts, &mut Unobserved, &CancelToken::new())
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
            let ops = model.parts[0].plan().ops().to_vec();
            for op in [&ops[0], &ops[ops.len() / 2], &ops[ops.len() - 1]] {
                let len = op.dest.end - op.dest.start;
                for at in [0, len / 2, len - 1] {
                    let place = op.dest.start + at;
                    let mut byte = [0];
                    model.parts[0].buffer.read(place, &mut byte).unwrap();
                    model.parts[0].buffer.write(place, &[byte[0] ^ 4]).unwrap();
                    for window_bytes in [SMALL, WINDOW_BYTES] {
                        let error = compared(&model, &source, window_bytes).unwrap_err();
                        let what = format!(
                            "verification failed: tensor {} differs from the file at byte {at} of \
                             {len} on host",
                            op.tensor
                        );
                        assert_eq!(error.to_string(), what);
                    }
                    model.parts[0].buffer.write(place, &byte).unwrap();
                }
            }
        }
    }
}
