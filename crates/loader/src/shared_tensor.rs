//! A weight that keeps its model in memory.

use crate::host_view::{self, WeightElement};
use crate::model::LoadedModel;
use crate::part::TensorView;
use cuda_sys::DeviceKind;
use model_phi3::{Fused, Slot};
use std::ops::Deref;
use std::sync::Arc;

/// A weight together with its model, which stays in memory as long as this value. For code that stores the
/// address of a weight: a graph of kernels, a tensor of another library.
///
/// ```
/// # use loader::{DeviceChoice, LoadOptions, Loader, Slot, Unobserved};
/// # use std::sync::Arc;
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
/// # let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
/// let model = Arc::new(loader.load(path, &mut Unobserved)?);
/// let q = model.share(Slot::AttnQ(0)).ok_or("the model has no layers")?;
/// drop(model);
/// println!("layer 0: Q {:?} at {:#x} on {}", q.shape, q.address, q.device());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedTensor {
    view: TensorView,
    part: usize,
    model: Arc<LoadedModel>,
}

impl LoadedModel {
    /// Returns a weight that keeps this model in memory. `None` in the cases of [`slot`](Self::slot).
    pub fn share(self: &Arc<Self>, slot: Slot) -> Option<SharedTensor> {
        let (part, view) = self.first(|part| part.whole_slot(slot))?;
        Some(SharedTensor { view, part: part.index(), model: Arc::clone(self) })
    }

    /// Returns several weights as one matrix that keeps this model in memory. `None` in the cases of
    /// [`fused`](Self::fused).
    pub fn share_fused(self: &Arc<Self>, fused: Fused) -> Option<SharedTensor> {
        let (part, view) = self.first(|part| part.whole_fused(fused))?;
        Some(SharedTensor { view, part: part.index(), model: Arc::clone(self) })
    }

    /// Returns the weight of a [part](Self::parts), or the part of it, that keeps this model in memory. `None` if there
    /// is no such part, or in the cases of [`LoadedPart::slot`](crate::LoadedPart::slot).
    pub fn share_of_part(self: &Arc<Self>, part: usize, slot: Slot) -> Option<SharedTensor> {
        let view = self.parts().get(part)?.slot(slot)?.tensor;
        Some(SharedTensor { view, part, model: Arc::clone(self) })
    }

    /// Returns several weights of a [part](Self::parts) as one matrix that keeps this model in memory. `None` if there is
    /// no such part, or in the cases of [`LoadedPart::fused`](crate::LoadedPart::fused).
    pub fn share_fused_of_part(
        self: &Arc<Self>,
        part: usize,
        fused: Fused,
    ) -> Option<SharedTensor> {
        let view = self.parts().get(part)?.fused(fused)?;
        Some(SharedTensor { view, part, model: Arc::clone(self) })
    }
}

impl SharedTensor {
    /// Returns the model.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    /// Returns the device on which the address is valid.
    pub fn device(&self) -> DeviceKind {
        self.view.device
    }

    /// Returns the bytes, if they are in host memory.
    pub fn host_bytes(&self) -> Option<&[u8]> {
        host_view::bytes(&self.model.parts().get(self.part)?.buffer, &self.view)
    }

    /// Returns the elements, if they are in host memory and of this type.
    pub fn host_slice<T: WeightElement>(&self) -> Option<&[T]> {
        host_view::slice(&self.model.parts().get(self.part)?.buffer, &self.view)
    }
}

impl Deref for SharedTensor {
    type Target = TensorView;

    fn deref(&self) -> &TensorView {
        &self.view
    }
}
