//! Factors of whole tensors, which become part of the weights when these are decoded.

use crate::error::Error;
use crate::source::Source;
use model_phi3::LoadPlan;

/// One entry an operation of the plan, in their order: what its decoded values are multiplied by.
pub(crate) struct Scales(Vec<Option<f32>>);

impl Scales {
    /// Reads them from the file: four bytes each.
    pub(crate) fn read(plan: &LoadPlan, source: &Source) -> Result<Self, Error> {
        let read = |op: &model_phi3::PlanOp| {
            let Some(scale) = &op.scale else { return Ok(None) };
            source.read_at(&scale.source).map(|bytes| Some(f32::from_le_bytes(bytes)))
        };
        Ok(Self(plan.ops().iter().map(read).collect::<Result<_, Error>>()?))
    }

    /// No operation has one.
    #[cfg(test)]
    pub(crate) fn none(plan: &LoadPlan) -> Self {
        Self(vec![None; plan.ops().len()])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<f32>> {
        self.0.iter().copied()
    }
}
