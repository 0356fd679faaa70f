//! Checks the engine's reports about the bytes that it moved.

use crate::devices::Devices;
use crate::error::{Error, NonFiniteTensor};
use crate::scales::Scales;
use crate::stats::AllZeroTensor;
use crate::transfer::Move;
use cuda_sys::OpReport;
use model_phi3::{LoadPlan, SourceRange};
use std::collections::BTreeMap;

/// The operations of a plan, with the engine's reports about them.
pub(crate) struct Moved<'a> {
    pub(crate) moves: &'a [Move<'a>],
    pub(crate) reports: &'a [OpReport],
    pub(crate) devices: &'a Devices,
}

impl Moved<'_> {
    fn iter(&self) -> impl Iterator<Item = (&Move<'_>, &OpReport)> {
        self.moves.iter().zip(self.reports)
    }

    /// Fails if the engine did not move exactly the number of bytes and the operations in the plan.
    pub(crate) fn check_complete(&self, bytes: u64, all_bytes: u64) -> Result<(), Error> {
        let (operations, all_operations) = (self.reports.len(), self.moves.len());
        if (bytes, operations) == (all_bytes, all_operations) {
            return Ok(());
        }
        Err(Error::Verification {
            what: format!(
                "{bytes} bytes in {operations} operations were moved, the plan has {all_bytes} in \
                 {all_operations}"
            ),
        })
    }

    /// Fails if the digest of a tensor on a device differs from the digest of the bytes that were read.
    pub(crate) fn check_digests(&self) -> Result<(), Error> {
        match self.iter().find(|(_, report)| report.source != report.device) {
            None => Ok(()),
            Some((of, report)) => Err(Error::Verification {
                what: format!(
                    "tensor {} has digest {} on {}, expected {}",
                    gguf_format::escape(of.op.tensor.as_ref()),
                    report.device,
                    self.devices.name_of(of.part),
                    report.source
                ),
            }),
        }
    }

    /// Returns the tensors with infinite or NaN weights, in the order of the plan. A tensor is listed once for each part
    /// that has such weights of it, also if several operations move them.
    pub(crate) fn non_finite(&self) -> Vec<NonFiniteTensor> {
        let several = self.devices.single().is_none();
        let mut found = BTreeMap::new();
        for (of, report) in self.iter().filter(|(_, of)| of.infinite != 0 || of.nan != 0) {
            let tensor = found.entry((of.tensor, of.part)).or_insert_with(|| NonFiniteTensor {
                tensor: of.op.tensor.to_string(),
                format: of.op.format,
                infinite: 0,
                nan: 0,
                device: self.devices.get(of.part).copied().filter(|_| several),
            });
            tensor.infinite += report.infinite;
            tensor.nan += report.nan;
        }
        found.into_values().collect()
    }

    /// Returns the tensors whose bytes in the file are all zero, in the order of the plan. A scale factor that is
    /// multiplied into the weights is also checked.
    pub(crate) fn all_zero(&self, whole: &LoadPlan, scales: &Scales) -> Vec<AllZeroTensor> {
        let tensor = |name: &str, source: &SourceRange| AllZeroTensor {
            tensor: name.to_owned(),
            bytes: source.range.end - source.range.start,
        };
        let mut found = Vec::new();
        for (position, op) in whole.ops().iter().enumerate() {
            let start = self.moves.partition_point(|of| of.tensor < position);
            let end = self.moves.partition_point(|of| of.tensor <= position);
            let reports = self.reports.get(start..end).unwrap_or_default();
            if !reports.is_empty() && reports.iter().all(|report| report.all_zero) {
                found.push(tensor(&op.tensor, &op.source));
            }
            if scales.of(position).is_some_and(|factor| factor.to_bits() == 0) {
                found.extend(op.scale.as_ref().map(|scale| tensor(&scale.name, &scale.source)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_plan;
    use crate::transfer::moves;
    use cuda_sys::DeviceKind;

    #[test]
    fn a_transfer_that_differs_from_the_plan_fails() {
        let plan = test_plan::tiny();
        let devices = Devices::new([DeviceKind::Host]);
        let moved = Moved { moves: &moves(&plan), reports: &[], devices: &devices };
        let error = moved.check_complete(9, 9).unwrap_err();
        assert!(error.to_string().contains(" in 0 operations were moved"), "{error}");
        let none = Moved { moves: &[], ..moved };
        none.check_complete(9, 9).unwrap();
        for bytes in [8, 10] {
            let error = none.check_complete(bytes, 9).unwrap_err();
            assert_eq!(error.code(), "VERIFICATION_FAILED");
            let text = format!("verification failed: {bytes} bytes in 0 operations were moved");
            assert!(error.to_string().starts_with(&text), "{error}");
        }
    }
}
