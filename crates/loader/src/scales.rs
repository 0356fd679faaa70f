//! Scale factors of whole tensors. When the weights of a tensor are decoded, they are multiplied by its factor.

use crate::error::Error;
use crate::source::Source;
use model_phi3::{LoadPlan, PlanOp};

/// The scale factor of each tensor, in the order of the whole plan. `None` if the tensor has no factor.
pub(crate) struct Scales(Vec<Option<f32>>);

impl Scales {
    /// Reads the scales from the file. Each is a little-endian `f32`.
    pub(crate) fn read(plan: &LoadPlan, source: &Source) -> Result<Self, Error> {
        let read = |op: &PlanOp| {
            let Some(scale) = &op.scale else { return Ok(None) };
            source.read_at(&scale.source).map(|bytes| Some(f32::from_le_bytes(bytes)))
        };
        Ok(Self(plan.ops().iter().map(read).collect::<Result<_, Error>>()?))
    }

    /// Returns the factor of a tensor, by its position in the whole plan.
    pub(crate) fn of(&self, tensor: usize) -> Option<f32> {
        self.0.get(tensor).copied().flatten()
    }
}
