//! A model whose weights are in device memory.

use crate::assemble;
use crate::devices::Devices;
use crate::error::Error;
use crate::event::Unobserved;
use crate::file_identity::Facts;
use crate::fingerprint::{Fingerprint, Rehash, RehashStep};
use crate::part::{LoadedPart, PartsOf, TensorView};
use crate::residency::{self, Residency};
use crate::stats::LoadStats;
use gguf_format::{GgufHeader, Metadata};
use model_phi3::{Fused, Phi3Config, Phi3Weights, PlacedPlan, Slot, Tokenizer};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The weights of one model, in one allocation on each of its devices. Dropping it frees the allocations.
///
/// If several devices have parts of the model, methods that return an address return only weights that one device
/// holds whole. [`parts`](Self::parts) gives the rest.
///
/// Threads can share it and move it between them (`Send`, `Sync`). It stays valid after the
/// [`Loader`](crate::Loader) that made it is dropped.
pub struct LoadedModel {
    pub(crate) of: Arc<PartsOf>,
    /// The number and the weights of the first part that is the whole model.
    pub(crate) whole: Option<(usize, Phi3Weights<TensorView>)>,
    pub(crate) parts: Vec<LoadedPart>,
    pub(crate) stats: LoadStats,
    /// The header of the first file.
    pub(crate) header: GgufHeader,
    pub(crate) files: Vec<ModelFile>,
}

/// A file of a model.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) path: PathBuf,
    pub(crate) facts: Facts,
    pub(crate) header: GgufHeader,
}

impl LoadedModel {
    pub(crate) fn new(
        of: Arc<PartsOf>,
        parts: Vec<LoadedPart>,
        stats: LoadStats,
        header: GgufHeader,
        files: Vec<ModelFile>,
    ) -> Self {
        let whole = |part: &LoadedPart| Some((part.index(), part.whole_weights()?));
        let whole = parts.iter().find_map(whole);
        Self { of, whole, parts, stats, header, files }
    }

    /// Returns the model's configuration.
    pub fn config(&self) -> &Phi3Config {
        &self.of.config
    }

    /// Returns the plan of the load.
    pub fn plan(&self) -> &PlacedPlan {
        &self.of.plan
    }

    /// Returns the weights on each device, in the order of the devices.
    pub fn parts(&self) -> &[LoadedPart] {
        &self.parts
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

    /// Returns the devices that hold the weights.
    pub fn device(&self) -> &Devices {
        &self.of.devices
    }

    /// Returns the bytes of device memory allocated for the weights, on all devices together.
    pub fn vram_bytes(&self) -> u64 {
        self.parts.iter().map(LoadedPart::vram_bytes).sum()
    }

    /// Returns one weight, on the first device that holds it whole. `None` if the model has no such slot, or if
    /// its matrix is divided among the devices ([`SplitMode::Tensor`](crate::SplitMode::Tensor)).
    pub fn slot(&self, slot: Slot) -> Option<TensorView> {
        self.first(|part| part.whole_slot(slot)).map(|(_, view)| view)
    }

    /// Returns several weights of a layer as one matrix, for example Q, K and V, on the first device that holds them
    /// whole. `None` in the cases of [`slot`](Self::slot), or if they are not one matrix in memory: see
    /// [`PlacedPart::fused`](crate::PlacedPart::fused).
    pub fn fused(&self, fused: Fused) -> Option<TensorView> {
        self.first(|part| part.whole_fused(fused)).map(|(_, view)| view)
    }

    /// Returns the first part for which `of` has a value, and the value.
    pub(crate) fn first<T>(
        &self,
        of: impl Fn(&LoadedPart) -> Option<T>,
    ) -> Option<(&LoadedPart, T)> {
        self.parts.iter().find_map(|part| Some((part, of(part)?)))
    }

    /// Returns all weights on the first device that holds the whole model, ordered as in the model. A load to one
    /// device always has them, as has a load in the mode [`Replicate`](crate::SplitMode::Replicate). `None` if
    /// the devices share the model: then [`LoadedPart::weights`] returns the weights of each.
    pub fn weights(&self) -> Option<&Phi3Weights<TensorView>> {
        self.whole.as_ref().map(|(_, weights)| weights)
    }

    /// Returns the first part that is the whole model.
    pub(crate) fn whole_part(&self) -> Option<&LoadedPart> {
        self.parts.get(self.whole.as_ref()?.0)
    }

    /// Copies a whole weight to host memory; `None` if the model has no such slot.
    ///
    /// If several devices have parts of the weight, they are put together. Bytes that several devices have are compared.
    /// This needs host memory for the whole weight and one part.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the copy fails, [`Error::HostMemory`] if the host has too little free memory.
    /// [`Error::Verification`] if two devices have different bytes, with the name of the slot and both devices.
    pub fn read_slot(&self, slot: Slot) -> Result<Option<Vec<u8>>, Error> {
        assemble::read_whole(&self.of.plan, &self.parts, slot)
    }

    /// Computes digests of all weights on the devices.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if a device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        Fingerprint::take(&self.parts)
    }

    /// Compares all weights with an earlier fingerprint of this model. The devices compute the digests, and
    /// only they are copied to the host. Kernels may use the weights at the same time.
    /// [`Rehash`](crate::Rehash) divides the comparison into many calls.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] with the name of the first tensor that changed and its device, or [`Error::Engine`].
    pub fn verify_fingerprint(&self, earlier: &Fingerprint) -> Result<(), Error> {
        earlier.check_all(&self.parts, &mut Unobserved)
    }

    /// Checks again that every weight is in the memory of its device. Copies no weights.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] with the name of the slot, or [`Error::Engine`] if the driver fails.
    pub fn verify_residency(&self) -> Result<Residency, Error> {
        let parts: Vec<_> = self.parts.iter().map(residency::check).collect::<Result<_, _>>()?;
        Ok(Residency::sum(&parts))
    }
}

/// Writes what the model is and where. The plan and the addresses would fill pages.
impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("name", &self.of.config.name)
            .field("storage", &self.of.plan.storage())
            .field("parts", &self.parts)
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
        self.compare(&model.parts, budget_bytes)
    }
}
