//! Scales of whole tensors, which weights are multiplied by when they are decoded.

use crate::error::Error;
use crate::source::Source;
use model_phi3::LoadPlan;

/// One entry for each operation of the plan, in the plan's order: the factor of its decoded values.
pub(crate) struct Scales(Vec<Option<f32>>);

impl Scales {
    /// Reads the scales from the file: four bytes each.
    pub(crate) fn read(plan: &LoadPlan, source: &Source) -> Result<Self, Error> {
        let read = |op: &model_phi3::PlanOp| {
            let Some(scale) = &op.scale else { return Ok(None) };
            source.read_at(&scale.source).map(|bytes| Some(f32::from_le_bytes(bytes)))
        };
        Ok(Self(plan.ops().iter().map(read).collect::<Result<_, Error>>()?))
    }

    /// For a plan in which no operation has a scale.
    #[cfg(test)]
    pub(crate) fn none(plan: &LoadPlan) -> Self {
        Self(vec![None; plan.ops().len()])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<f32>> {
        self.0.iter().copied()
    }
}
