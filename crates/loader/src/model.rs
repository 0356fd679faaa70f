//! A model whose weights are in device memory.

use crate::error::Error;
use crate::fingerprint::{Fingerprint, Rehash, RehashStep};
use crate::host_memory;
use crate::residency::{self, Residency};
use crate::stats::LoadStats;
use cuda_sys::{DeviceBuffer, DeviceKind};
use gguf_format::{GgufHeader, Metadata};
use model_phi3::{
    Fused, FusedSlot, LoadPlan, Matrix, Phi3Config, Phi3Weights, PlannedSlot, Slot, SlotFormat,
    Tokenizer,
};
use std::fmt;

/// One weight in device memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorView {
    /// Address of the first byte on the device.
    pub address: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// `[rows, cols]` or `[n]`, row-major.
    pub shape: Vec<u64>,
    /// Format of the bytes.
    pub format: SlotFormat,
    /// Address of the one `f32` factor of all values, which is also [`Slot::Scale`]. Only NVFP4 weights
    /// in native storage have it, and only if the file contains it.
    pub scale: Option<u64>,
    /// Address of the `f32` scale of the activations, which is also [`Slot::InputScale`]. It exists in the
    /// same cases as `scale`, if the file contains it.
    pub input_scale: Option<u64>,
}

/// The weights of one model, in one allocation on one device. Dropping it frees the allocation.
///
/// Threads can share it and move it between them (`Send`, `Sync`). It stays valid after the
/// [`Loader`](crate::Loader) that made it is dropped.
pub struct LoadedModel {
    pub(crate) config: Phi3Config,
    pub(crate) plan: LoadPlan,
    pub(crate) weights: Phi3Weights<TensorView>,
    pub(crate) buffer: DeviceBuffer,
    pub(crate) stats: LoadStats,
    pub(crate) header: GgufHeader,
}

impl LoadedModel {
    /// Returns the model's configuration.
    pub fn config(&self) -> &Phi3Config {
        &self.config
    }

    /// Returns the plan of the load.
    pub fn plan(&self) -> &LoadPlan {
        &self.plan
    }

    /// Returns the statistics of the load.
    pub fn stats(&self) -> &LoadStats {
        &self.stats
    }

    /// Returns the metadata of the file, from the header that the load checked: tokens, chat template and more.
    /// The file is no longer open. The header stays in host memory as long as the model.
    pub fn metadata(&self) -> &Metadata<'_> {
        self.header.gguf().metadata()
    }

    /// Returns the tokenizer's part of the [metadata](Self::metadata): tokens, special tokens, chat template.
    ///
    /// # Errors
    ///
    /// [`ModelError`](crate::ModelError) if a key has a wrong type.
    pub fn tokenizer(&self) -> Result<Tokenizer<'_>, model_phi3::Error> {
        Tokenizer::from_metadata(self.metadata())
    }

    /// Returns the device that holds the weights.
    pub fn device(&self) -> DeviceKind {
        self.buffer.device()
    }

    /// Returns the bytes of device memory allocated for the weights.
    pub fn vram_bytes(&self) -> u64 {
        self.buffer.len()
    }

    /// Returns one weight; `None` if the model has no such slot.
    pub fn slot(&self, slot: Slot) -> Option<TensorView> {
        self.plan.slot(slot).map(|planned| view(&self.plan, &self.buffer, planned))
    }

    /// Returns several weights of a layer as one matrix, for example Q, K and V. `None` if they are not one
    /// matrix in memory: see [`LoadPlan::fused`].
    pub fn fused(&self, fused: Fused) -> Option<TensorView> {
        Some(self.fused_view(&self.plan.fused(fused)?))
    }

    fn fused_view(&self, fused: &FusedSlot) -> TensorView {
        // All parts have the same scales.
        let first = fused.fused.slots().next().and_then(|slot| self.slot(slot));
        TensorView {
            address: self.buffer.address() + fused.dest.start,
            bytes: fused.dest.end - fused.dest.start,
            shape: fused.shape.to_vec(),
            format: fused.format,
            scale: first.as_ref().and_then(|first| first.scale),
            input_scale: first.and_then(|first| first.input_scale),
        }
    }

    /// Returns all weights, ordered as in the model.
    pub fn weights(&self) -> &Phi3Weights<TensorView> {
        &self.weights
    }

    /// Copies a weight to host memory; `None` if the model has no such slot.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the copy fails, [`Error::HostMemory`] if the host has too little free memory.
    pub fn read_slot(&self, slot: Slot) -> Result<Option<Vec<u8>>, Error> {
        let Some(planned) = self.plan.slot(slot) else { return Ok(None) };
        let range = &planned.dest;
        let purpose = format!("reading {slot} back");
        let mut bytes = host_memory::zeroed(range.end - range.start, &purpose)?;
        self.buffer.read(range.start, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Computes digests of all weights on the device.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        Fingerprint::take(&self.plan, &self.buffer)
    }

    /// Compares all weights with an earlier fingerprint of this model. The device computes the digests, and
    /// only they are copied to the host. Kernels may use the weights at the same time.
    /// [`Rehash`](crate::Rehash) divides the comparison into many calls.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] with the name of the first tensor that changed, or [`Error::Engine`].
    pub fn verify_fingerprint(&self, earlier: &Fingerprint) -> Result<(), Error> {
        earlier.check_all(&self.plan, &self.buffer)
    }

    /// Checks again that every weight is in the memory of its device. Copies no weights.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] with the name of the slot, or [`Error::Engine`] if the driver fails.
    pub fn verify_residency(&self) -> Result<Residency, Error> {
        residency::check(&self.plan, &self.buffer)
    }
}

/// Writes what the model is and where. The plan and the addresses would fill pages.
impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("name", &self.config.name)
            .field("storage", &self.plan.storage())
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl Rehash {
    /// Compares the next weights: at most `budget_bytes`, but at least one piece of up to 16 MiB. A step
    /// never continues past the end of a round. Copies only the digests to the host. Kernels may use the
    /// weights at the same time.
    ///
    /// After a mismatch the next step compares the same pieces again.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] if a tensor has changed, which it names, or if the fingerprint is of another
    /// model. [`Error::Engine`] if the device fails.
    pub fn step(&mut self, model: &LoadedModel, budget_bytes: u64) -> Result<RehashStep, Error> {
        self.compare(&model.plan, &model.buffer, budget_bytes)
    }
}

pub(crate) fn view(plan: &LoadPlan, buffer: &DeviceBuffer, planned: &PlannedSlot) -> TensorView {
    let scale = |of: fn(Matrix) -> Slot| {
        let planned = plan.slot(of(planned.slot.matrix()?))?;
        Some(buffer.address() + planned.dest.start)
    };
    TensorView {
        address: buffer.address() + planned.dest.start,
        bytes: planned.dest.end - planned.dest.start,
        shape: planned.shape.clone(),
        format: planned.format,
        scale: scale(Slot::Scale),
        input_scale: scale(Slot::InputScale),
    }
}
