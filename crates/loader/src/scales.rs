//! Scale factors of whole tensors. When the weights of a tensor are decoded, they are multiplied by its factor.

use crate::error::Error;
use crate::source::Source;
use model_phi3::LoadPlan;

/// The scale factor of each operation, in the plan's order. `None` if the operation has no factor.
pub(crate) struct Scales(Vec<Option<f32>>);

impl Scales {
    /// Reads the scales from the file. Each is a little-endian `f32`.
    pub(crate) fn read(plan: &LoadPlan, source: &Source) -> Result<Self, Error> {
        let read = |op: &model_phi3::PlanOp| {
            let Some(scale) = &op.scale else { return Ok(None) };
            source.read_at(&scale.source).map(|bytes| Some(f32::from_le_bytes(bytes)))
        };
        Ok(Self(plan.ops().iter().map(read).collect::<Result<_, Error>>()?))
    }

    /// Returns the scales of a plan in which no operation has one.
    #[cfg(test)]
    pub(crate) fn none(plan: &LoadPlan) -> Self {
        Self(vec![None; plan.ops().len()])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<f32>> {
        self.0.iter().copied()
    }
}
