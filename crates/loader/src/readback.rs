//! Proof by comparison: what the device holds against what the file says.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::source::Source;
use crate::transfer::copy_op;
use cuda_sys::{
    CopyOp, Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, ErrorCode, Io, Request,
    StagingRing,
};
use model_phi3::{LoadPlan, PlanOp};

const CONFIG: EngineConfig =
    EngineConfig { readers: 4, depth: 4, chunk_bytes: 1 << 20, read_bytes: 1 << 20 };

/// Bytes compared at a time, between looks at the token.
const PIECE_BYTES: u64 = 16 << 20;

/// Produces each tensor again in host memory and compares it with what is read back from the device.
/// Takes host memory for the largest tensor, and for two pieces.
pub(crate) fn compare(
    plan: &LoadPlan,
    source: &Source,
    buffer: &DeviceBuffer,
    token: &CancelToken,
) -> Result<(), Error> {
    let host = Device::open(DeviceKind::Host)?;
    let mut engine = Engine::new(&host, StagingRing::new(CONFIG)?)?;
    let mut pieces = Pieces::default();
    plan.ops().iter().try_for_each(|op| {
        let expected = reproduce(op, source, &host, &mut engine, token)?;
        match pieces.first_difference(op, &expected, buffer, token)? {
            None => Ok(()),
            Some(at) => Err(Error::Verification {
                what: format!(
                    "tensor {} differs from the file at byte {at} of {} on {}",
                    gguf_format::escape(op.tensor.as_ref()),
                    expected.len(),
                    buffer.device()
                ),
            }),
        }
    })
}

fn reproduce(
    op: &PlanOp,
    source: &Source,
    host: &Device,
    engine: &mut Engine,
    token: &CancelToken,
) -> Result<DeviceBuffer, Error> {
    let mut expected = host.allocate(op.dest.end - op.dest.start)?;
    let op = CopyOp { dest_offset: 0, unit: 0, ..copy_op(op, false) };
    let done = engine.execute(
        Request {
            sources: &source.files(),
            io: Io::Read,
            ops: &[op],
            units: 1,
            digest: false,
            timeline: false,
        },
        &mut expected,
        &mut |_| token.flow(),
    );
    match done {
        Ok(_) => Ok(expected),
        Err(error) => Err(match error.code() {
            ErrorCode::Cancelled => Error::Cancelled,
            ErrorCode::Io | ErrorCode::FileTruncated => {
                Error::Read { path: source.path().to_owned(), source: error }
            }
            _ => Error::Engine(error),
        }),
    }
}

/// Memory for one piece of each side.
#[derive(Default)]
struct Pieces {
    expected: Vec<u8>,
    found: Vec<u8>,
}

impl Pieces {
    /// Position in the tensor of the first byte that differs.
    fn first_difference(
        &mut self,
        op: &PlanOp,
        expected: &DeviceBuffer,
        buffer: &DeviceBuffer,
        token: &CancelToken,
    ) -> Result<Option<u64>, Error> {
        let mut start = 0;
        while start < expected.len() {
            token.check()?;
            let bytes = PIECE_BYTES.min(expected.len() - start);
            let len = usize::try_from(bytes).unwrap_or(usize::MAX);
            self.expected.resize(len, 0);
            self.found.resize(len, 0);
            expected.read(start, &mut self.expected)?;
            buffer.read(op.dest.start + start, &mut self.found)?;
            if self.found != self.expected {
                let pairs = self.found.iter().zip(&self.expected);
                let at = pairs.take_while(|(found, expected)| found == expected).count();
                return Ok(Some(start + at as u64));
            }
            start += bytes;
        }
        Ok(None)
    }
}
