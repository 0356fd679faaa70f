//! What the engine found out about the bytes it moved, held against what must be.

use crate::error::{Error, NonFiniteTensor};
use cuda_sys::{Digest, OpReport};
use model_phi3::{LoadPlan, PlanOp};

/// Fails where bytes on the device have another digest than the bytes that were read.
pub(crate) fn digests_agree(plan: &LoadPlan, reports: &[OpReport]) -> Result<(), Error> {
    let pairs = plan.ops().iter().zip(reports);
    match pairs.clone().find(|(_, report)| report.source != report.device) {
        None if pairs.len() == plan.ops().len() => Ok(()),
        None => Err(Error::Verification { what: "not every tensor was digested".to_owned() }),
        Some((op, report)) => Err(mismatch(op, report.source, report.device)),
    }
}

pub(crate) fn mismatch(op: &PlanOp, expected: Digest, found: Digest) -> Error {
    Error::Verification {
        what: format!(
            "tensor {} has digest {found} on the device, expected {expected}",
            gguf_format::escape(op.tensor.as_ref())
        ),
    }
}

/// The tensors with infinite or NaN weights, in the order of the plan.
pub(crate) fn non_finite(plan: &LoadPlan, reports: &[OpReport]) -> Vec<NonFiniteTensor> {
    plan.ops()
        .iter()
        .zip(reports)
        .filter(|(_, report)| report.infinite != 0 || report.nan != 0)
        .map(|(op, report)| NonFiniteTensor {
            tensor: op.tensor.to_string(),
            infinite: report.infinite,
            nan: report.nan,
        })
        .collect()
}
