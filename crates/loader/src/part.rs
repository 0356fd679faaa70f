//! The weights of a model that are on one device.

use crate::devices::Devices;
use crate::error::Error;
use crate::event::Unobserved;
use crate::fingerprint::Fingerprint;
use crate::host_memory;
use crate::host_view::{self, WeightElement};
use crate::residency::{self, Residency};
use cuda_sys::{Device, DeviceBuffer, DeviceKind};
use model_phi3::{
    Fused, HeadRange, Matrix, Phi3Config, Phi3Weights, PlacedPart, PlacedPlan, PlacedSlot, Slot,
    SlotFormat,
};
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// One weight in device memory, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorView {
    /// The device on which the addresses are valid.
    pub device: DeviceKind,
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

/// The part of a weight that one device holds: its memory, and its place in the whole weight.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartView {
    /// The memory. The shape is that of the part.
    pub tensor: TensorView,
    /// The rows of the whole weight; `0..1` for a vector.
    pub rows: Range<u64>,
    /// The columns of the whole weight. For a vector, its elements.
    pub cols: Range<u64>,
    /// The attention heads, if the weight is Q, K, V or the attention output.
    pub heads: Option<HeadRange>,
    /// The shape of the whole weight.
    pub whole_shape: Vec<u64>,
}

impl PartView {
    /// Returns whether this is the whole weight.
    pub fn is_whole(&self) -> bool {
        self.tensor.shape == self.whole_shape
    }
}

impl Deref for PartView {
    type Target = TensorView;

    fn deref(&self) -> &TensorView {
        &self.tensor
    }
}

/// The model that parts belong to.
#[derive(Debug)]
pub(crate) struct PartsOf {
    pub(crate) config: Phi3Config,
    pub(crate) plan: PlacedPlan,
    /// One for each part of the plan.
    pub(crate) devices: Devices,
    pub(crate) device_names: Vec<String>,
    /// [`Device::identity`](cuda_sys::Device::identity) of each device.
    pub(crate) identities: Vec<String>,
}

impl PartsOf {
    /// Makes the parts of a model, in buffers of these devices. More devices than buffers are ignored.
    pub(crate) fn new(
        config: Phi3Config,
        plan: PlacedPlan,
        opened: &[Device],
        buffers: Vec<DeviceBuffer>,
    ) -> Result<(Arc<Self>, Vec<LoadedPart>), Error> {
        let opened = || opened.iter().take(buffers.len());
        let of = Arc::new(Self {
            config,
            plan,
            devices: Devices::new(opened().map(Device::kind)),
            device_names: opened().map(Device::name).collect::<Result<_, _>>()?,
            identities: opened().map(Device::identity).collect::<Result<_, _>>()?,
        });
        let part = |(index, buffer)| LoadedPart { of: Arc::clone(&of), index, buffer };
        let parts = buffers.into_iter().enumerate().map(part).collect();
        Ok((of, parts))
    }
}

/// The weights of a model that one device holds, in one allocation.
/// [`LoadedModel::parts`](crate::LoadedModel::parts) returns them.
pub struct LoadedPart {
    pub(crate) of: Arc<PartsOf>,
    pub(crate) index: usize,
    pub(crate) buffer: DeviceBuffer,
}

impl LoadedPart {
    /// Returns the configuration of the model.
    pub fn config(&self) -> &Phi3Config {
        &self.of.config
    }

    /// Returns the plan of this part.
    #[allow(clippy::indexing_slicing, reason = "a part is made only for an index of the plan")]
    pub fn plan(&self) -> &PlacedPart {
        &self.of.plan.parts()[self.index]
    }

    /// Returns the number of this part, counted from 0 in the order of the devices.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the device.
    pub fn device(&self) -> DeviceKind {
        self.buffer.device()
    }

    /// Returns the device's name, such as `NVIDIA H100 80GB HBM3`.
    pub fn device_name(&self) -> &str {
        self.of.device_names.get(self.index).map_or("", String::as_str)
    }

    /// Returns the bytes of device memory allocated for the weights.
    pub fn vram_bytes(&self) -> u64 {
        self.buffer.len()
    }

    /// Returns whether the weights are read-only.
    pub fn is_protected(&self) -> bool {
        !self.buffer.is_writable()
    }

    /// Returns the weight, or the part of it that this device holds; `None` if it holds nothing of it.
    pub fn slot(&self, slot: Slot) -> Option<PartView> {
        let placed = self.plan().slot(slot)?;
        let whole = self.of.plan.whole().slot(slot)?;
        Some(PartView {
            tensor: self.view(placed),
            rows: placed.rows.clone(),
            cols: placed.cols.clone(),
            heads: placed.heads,
            whole_shape: whole.shape.clone(),
        })
    }

    /// Returns the weight; `None` if this device does not hold all of it.
    pub(crate) fn whole_slot(&self, slot: Slot) -> Option<TensorView> {
        self.slot(slot).filter(PartView::is_whole).map(|view| view.tensor)
    }

    /// Returns several weights of a layer, or the parts of them that this device holds, as one matrix: for example,
    /// the rows of Q, then those of K, then those of V. `None` if they are not one matrix in memory: see
    /// [`PlacedPart::fused`]. [`slot`](Self::slot) gives the range of each weight.
    pub fn fused(&self, fused: Fused) -> Option<TensorView> {
        let placed = self.plan().fused(fused)?;
        // All weights have the same scales.
        let first = self.plan().slot(fused.slots().next()?)?;
        Some(TensorView {
            address: self.address(placed.dest.start),
            bytes: placed.dest.end - placed.dest.start,
            shape: placed.shape.to_vec(),
            ..self.view(first)
        })
    }

    /// Returns several weights as one matrix, as [`fused`](Self::fused) does. `None` also if this device does not hold
    /// all of each weight.
    pub(crate) fn whole_fused(&self, fused: Fused) -> Option<TensorView> {
        let whole = |slot| self.whole_slot(slot).is_some();
        fused.slots().all(whole).then(|| self.fused(fused))?
    }

    /// Returns all weights, ordered as in the model. `None` is a weight of which this device holds nothing.
    pub fn weights(&self) -> Phi3Weights<Option<PartView>> {
        let view =
            |slot, _: Option<&PlacedSlot>| Ok::<_, std::convert::Infallible>(self.slot(slot));
        let Ok(weights) = self.plan().weights(view);
        weights
    }

    /// Returns all weights; `None` if this device does not hold the whole model.
    pub(crate) fn whole_weights(&self) -> Option<Phi3Weights<TensorView>> {
        let rope_factors = self.of.plan.whole().slot(Slot::RopeFactorsLong).is_some();
        let layers = self.of.plan.layers();
        Phi3Weights::try_from_fn(layers, rope_factors, |slot| self.whole_slot(slot).ok_or(())).ok()
    }

    /// Returns the bytes of the weight, or of the part of it, in host memory, without copying them. `None` if this
    /// device holds nothing of it, or is a GPU.
    pub fn host_bytes(&self, slot: Slot) -> Option<&[u8]> {
        host_view::bytes(&self.buffer, &self.slot(slot)?.tensor)
    }

    /// Returns the elements of the weight, or of the part of it, in host memory, row-major, without copying them.
    /// `None` in the cases of [`host_bytes`](Self::host_bytes), or if the elements are of another type.
    pub fn host_slice<T: WeightElement>(&self, slot: Slot) -> Option<&[T]> {
        host_view::slice(&self.buffer, &self.slot(slot)?.tensor)
    }

    /// Copies the weight, or the part of it, to host memory; `None` if this device holds nothing of it.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the copy fails, [`Error::HostMemory`] if the host has too little free memory.
    pub fn read_slot(&self, slot: Slot) -> Result<Option<Vec<u8>>, Error> {
        let Some(placed) = self.plan().slot(slot) else { return Ok(None) };
        let range = &placed.planned.dest;
        let purpose = format!("reading {slot} back");
        let mut bytes = host_memory::zeroed(range.end - range.start, &purpose)?;
        self.buffer.read(range.start, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Computes digests of the weights on this device.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        Fingerprint::take(std::slice::from_ref(self))
    }

    /// Compares the weights on this device with an earlier fingerprint of this part. See
    /// [`LoadedModel::verify_fingerprint`](crate::LoadedModel::verify_fingerprint).
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] with the name of the first tensor that changed, or [`Error::Engine`].
    pub fn verify_fingerprint(&self, earlier: &Fingerprint) -> Result<(), Error> {
        earlier.check_all(std::slice::from_ref(self), &mut Unobserved)
    }

    /// Checks again that the weights are in the memory of this device. Copies no weights.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] with the name of the slot, or [`Error::Engine`] if the driver fails.
    pub fn verify_residency(&self) -> Result<Residency, Error> {
        residency::check(self)
    }

    /// Returns the name of the device for messages, with the number of the part if the device has several.
    pub(crate) fn name(&self) -> String {
        self.of.devices.name_of(self.index)
    }

    fn view(&self, placed: &PlacedSlot) -> TensorView {
        let planned = &placed.planned;
        let scale = |of: fn(Matrix) -> Slot| {
            let scale = self.plan().slot(of(planned.slot.matrix()?))?;
            Some(self.address(scale.planned.dest.start))
        };
        TensorView {
            device: self.device(),
            address: self.address(planned.dest.start),
            bytes: planned.dest.end - planned.dest.start,
            shape: planned.shape.clone(),
            format: planned.format,
            scale: scale(Slot::Scale),
            input_scale: scale(Slot::InputScale),
        }
    }

    fn address(&self, offset: u64) -> u64 {
        self.buffer.address() + offset
    }
}

impl fmt::Debug for LoadedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedPart")
            .field("index", &self.index)
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}
