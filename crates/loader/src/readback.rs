//! Proof by comparison: what the device holds against what the file says.

use crate::error::Error;
use crate::source::Source;
use crate::transfer::copy_op;
use cuda_sys::{
    CopyOp, Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, Io, Request, StagingRing,
};
use model_phi3::{LoadPlan, PlanOp};
use std::ops::ControlFlow;

const CONFIG: EngineConfig =
    EngineConfig { readers: 4, depth: 4, chunk_bytes: 1 << 20, read_bytes: 1 << 20 };

/// Produces each tensor again in host memory and compares it with what is read back from the device.
/// Takes host memory for two copies of the largest tensor.
pub(crate) fn compare(
    plan: &LoadPlan,
    source: &Source,
    buffer: &DeviceBuffer,
) -> Result<(), Error> {
    let host = Device::open(DeviceKind::Host)?;
    let mut engine = Engine::new(&host, StagingRing::new(CONFIG)?)?;
    plan.ops().iter().try_for_each(|op| {
        let expected = reproduce(op, source, &host, &mut engine)?;
        let mut found = vec![0; expected.len()];
        buffer.read(op.dest.start, &mut found)?;
        if found == expected {
            return Ok(());
        }
        let at = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(expected.len());
        Err(Error::Verification {
            what: format!(
                "tensor {} differs from the file at byte {at} of {} on {}",
                gguf_format::escape(op.tensor.as_ref()),
                expected.len(),
                buffer.device()
            ),
        })
    })
}

fn reproduce(
    op: &PlanOp,
    source: &Source,
    host: &Device,
    engine: &mut Engine,
) -> Result<Vec<u8>, Error> {
    let mut expected = host.allocate(op.dest.end - op.dest.start)?;
    let op = CopyOp { dest_offset: 0, unit: 0, ..copy_op(op, false) };
    engine.execute(
        Request {
            sources: &source.files(),
            io: Io::Read,
            ops: &[op],
            units: 1,
            digest: false,
            timeline: false,
        },
        &mut expected,
        &mut |_| ControlFlow::Continue(()),
    )?;
    let mut bytes = vec![0; usize::try_from(expected.len()).unwrap_or(usize::MAX)];
    expected.read(0, &mut bytes)?;
    Ok(bytes)
}
