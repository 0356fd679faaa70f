//! Proof by comparison: what the device holds against what the file says.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::scales::Scales;
use crate::source::Source;
use crate::transfer::copy_op;
use cuda_sys::{
    CopyOp, Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, ErrorCode, Io, Request,
    StagingRing,
};
use model_phi3::{Conversion, LoadPlan, PlanOp};

const CONFIG: EngineConfig = EngineConfig {
    readers: 4,
    storage_readers: 0,
    depth: 4,
    chunk_bytes: 1 << 20,
    read_bytes: 1 << 20,
};

/// Bytes on the device that are compared at a time, between looks at the token: whole blocks of
/// every type, as halves.
const PIECE_BYTES: u64 = 8 << 20;

/// Produces everything again in host memory and compares it with what is read back from the device.
/// Takes host memory for three pieces and a ring, whatever the size of the model.
pub(crate) fn compare(
    plan: &LoadPlan,
    source: &Source,
    buffer: &DeviceBuffer,
    token: &CancelToken,
) -> Result<(), Error> {
    Comparison::new(source, PIECE_BYTES)?.run(plan, buffer, token)
}

/// The operation, cut into ones of `piece_bytes` of the device. Their destinations are positions in
/// the tensor.
fn pieces(op: &PlanOp, scale: Option<f32>, piece_bytes: u64) -> impl Iterator<Item = CopyOp> {
    let whole = copy_op(op, scale, None);
    let source_bytes = match op.conversion {
        Conversion::Copy => piece_bytes,
        Conversion::ToF16(from) => piece_bytes / 2 / from.block_len() * from.block_bytes(),
    };
    (0..whole.dest_bytes.div_ceil(piece_bytes)).map(move |index| {
        let (source, dest) = (index * source_bytes, index * piece_bytes);
        CopyOp {
            source_offset: whole.source_offset + source,
            source_bytes: source_bytes.min(whole.source_bytes - source),
            dest_offset: dest,
            dest_bytes: piece_bytes.min(whole.dest_bytes - dest),
            unit: 0,
            ..whole
        }
    })
}

/// What one comparison works with.
struct Comparison<'a> {
    source: &'a Source,
    piece_bytes: u64,
    engine: Engine,
    /// The piece as the engine makes it of the file.
    reproduced: DeviceBuffer,
    expected: Vec<u8>,
    found: Vec<u8>,
}

impl<'a> Comparison<'a> {
    fn new(source: &'a Source, piece_bytes: u64) -> Result<Self, Error> {
        let host = Device::open(DeviceKind::Host)?;
        Ok(Self {
            source,
            piece_bytes,
            engine: Engine::new(&host, StagingRing::new(CONFIG)?)?,
            reproduced: host.allocate(piece_bytes)?,
            expected: Vec::new(),
            found: Vec::new(),
        })
    }

    fn run(
        &mut self,
        plan: &LoadPlan,
        buffer: &DeviceBuffer,
        token: &CancelToken,
    ) -> Result<(), Error> {
        for (op, scale) in plan.ops().iter().zip(Scales::read(plan, self.source)?.iter()) {
            for piece in pieces(op, scale, self.piece_bytes) {
                token.check()?;
                if let Some(at) = self.first_difference(op, piece, buffer, token)? {
                    return Err(Error::Verification {
                        what: format!(
                            "tensor {} differs from the file at byte {at} of {} on {}",
                            gguf_format::escape(op.tensor.as_ref()),
                            op.dest.end - op.dest.start,
                            buffer.device()
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// Position in the tensor of the first byte that differs in the piece.
    fn first_difference(
        &mut self,
        op: &PlanOp,
        piece: CopyOp,
        buffer: &DeviceBuffer,
        token: &CancelToken,
    ) -> Result<Option<u64>, Error> {
        self.reproduce(piece, token)?;
        let len = usize::try_from(piece.dest_bytes).unwrap_or(usize::MAX);
        self.expected.resize(len, 0);
        self.found.resize(len, 0);
        self.reproduced.read(0, &mut self.expected)?;
        buffer.read(op.dest.start + piece.dest_offset, &mut self.found)?;
        if self.found == self.expected {
            return Ok(None);
        }
        let pairs = self.found.iter().zip(&self.expected);
        let equal = pairs.take_while(|(found, expected)| found == expected).count();
        Ok(Some(piece.dest_offset + equal as u64))
    }

    fn reproduce(&mut self, piece: CopyOp, token: &CancelToken) -> Result<(), Error> {
        let done = self.engine.execute(
            Request {
                sources: &self.source.files(),
                io: Io::Read,
                ops: &[CopyOp { dest_offset: 0, ..piece }],
                units: 1,
                digest: false,
                timeline: false,
            },
            &mut self.reproduced,
            &mut |_| token.flow(),
        );
        match done {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.code() {
                ErrorCode::Cancelled => Error::Cancelled,
                ErrorCode::Io | ErrorCode::FileTruncated => {
                    Error::Read { path: self.source.path().to_owned(), source: error }
                }
                _ => Error::Engine(error),
            }),
        }
    }
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
    fn pieces_tile_the_file_and_the_device() {
        let plan = test_plan::mini();
        for op in plan.ops() {
            let (mut source, mut dest) = (op.source.range.start, 0);
            for piece in pieces(op, None, PIECE_BYTES) {
                assert_eq!((piece.source_offset, piece.dest_offset), (source, dest));
                assert!((1..=PIECE_BYTES).contains(&piece.dest_bytes));
                source += piece.source_bytes;
                dest += piece.dest_bytes;
            }
            assert_eq!((source, dest), (op.source.range.end, op.dest.end - op.dest.start));
        }
    }

    fn compared(model: &LoadedModel, source: &Source, piece_bytes: u64) -> Result<(), Error> {
        let mut comparison = Comparison::new(source, piece_bytes)?;
        comparison.run(&model.plan, &model.buffer, &CancelToken::new())
    }

    #[test]
    fn a_flipped_bit_in_any_piece_is_found_and_its_place_named() {
        const PIECE: u64 = 2048;
        for name in ["fused-f16", "fused-k-quants", "split-q8_0"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../testdata/models")
                .join(name)
                .with_extension("gguf");
            let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
            let mut model = loader.load(&path, &mut Unobserved).unwrap();
            let source = Source::open(&path, &Limits::default()).unwrap();
            for piece_bytes in [PIECE, PIECE_BYTES] {
                compared(&model, &source, piece_bytes).unwrap();
            }
            let ops = model.plan.ops().to_vec();
            for op in [&ops[0], &ops[ops.len() / 2], &ops[ops.len() - 1]] {
                let len = op.dest.end - op.dest.start;
                for at in [0, len / 2, len - 1] {
                    let place = op.dest.start + at;
                    let mut byte = [0];
                    model.buffer.read(place, &mut byte).unwrap();
                    model.buffer.write(place, &[byte[0] ^ 4]).unwrap();
                    for piece_bytes in [PIECE, PIECE_BYTES] {
                        let error = compared(&model, &source, piece_bytes).unwrap_err();
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
