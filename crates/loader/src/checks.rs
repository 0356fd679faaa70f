//! Checks the engine's reports about the bytes that it moved.

use crate::error::{Error, NonFiniteTensor};
use crate::scales::Scales;
use crate::stats::AllZeroTensor;
use cuda_sys::OpReport;
use model_phi3::{LoadPlan, SourceRange};

/// Fails if the engine did not move exactly the number of bytes and tensors in the plan.
pub(crate) fn all_moved(plan: &LoadPlan, bytes: u64, tensors: usize) -> Result<(), Error> {
    let (all_bytes, all_tensors) = (plan.source_bytes(), plan.ops().len());
    if (bytes, tensors) == (all_bytes, all_tensors) {
        return Ok(());
    }
    Err(Error::Verification {
        what: format!(
            "{bytes} bytes of {tensors} tensors were moved, the plan has {all_bytes} of {all_tensors}"
        ),
    })
}

/// Fails if the digest of a tensor on the device differs from the digest of the bytes that were read.
pub(crate) fn digests_agree(plan: &LoadPlan, reports: &[OpReport]) -> Result<(), Error> {
    let pairs = plan.ops().iter().zip(reports);
    match pairs.clone().find(|(_, report)| report.source != report.device) {
        None if pairs.len() == plan.ops().len() => Ok(()),
        None => Err(Error::Verification { what: "some tensors have no digest".to_owned() }),
        Some((op, report)) => Err(Error::Verification {
            what: format!(
                "tensor {} has digest {} on the device, expected {}",
                gguf_format::escape(op.tensor.as_ref()),
                report.device,
                report.source
            ),
        }),
    }
}

/// Returns the tensors with infinite or NaN weights, in the order of the plan.
pub(crate) fn non_finite(plan: &LoadPlan, reports: &[OpReport]) -> Vec<NonFiniteTensor> {
    let reports = plan.ops().iter().zip(reports);
    reports
        .filter(|(_, report)| report.infinite != 0 || report.nan != 0)
        .map(|(op, report)| NonFiniteTensor {
            tensor: op.tensor.to_string(),
            format: op.format,
            infinite: report.infinite,
            nan: report.nan,
        })
        .collect()
}

/// Returns the tensors whose bytes in the file are all zero, in the order of the plan. A scale factor that is
/// multiplied into the weights is also checked.
pub(crate) fn all_zero(
    plan: &LoadPlan,
    reports: &[OpReport],
    scales: &Scales,
) -> Vec<AllZeroTensor> {
    let tensor = |name: &str, source: &SourceRange| AllZeroTensor {
        tensor: name.to_owned(),
        bytes: source.range.end - source.range.start,
    };
    let mut found = Vec::new();
    for ((op, report), factor) in plan.ops().iter().zip(reports).zip(scales.iter()) {
        if report.all_zero {
            found.push(tensor(&op.tensor, &op.source));
        }
        if factor.is_some_and(|factor| factor.to_bits() == 0) {
            found.extend(op.scale.as_ref().map(|scale| tensor(&scale.name, &scale.source)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_plan;

    #[test]
    fn a_transfer_that_differs_from_the_plan_fails() {
        let plan = test_plan::tiny();
        let (bytes, tensors) = (plan.source_bytes(), plan.ops().len());
        all_moved(&plan, bytes, tensors).unwrap();
        for (bytes, tensors) in [(bytes - 1, tensors), (bytes + 1, tensors), (bytes, tensors - 1)] {
            let error = all_moved(&plan, bytes, tensors).unwrap_err();
            assert_eq!(error.code(), "VERIFICATION_FAILED");
            assert!(
                error.to_string().starts_with(&format!(
                    "verification failed: {bytes} bytes of {tensors} tensors"
                ))
            );
        }
    }
}
