//! Weights in host memory as slices.

use crate::model::LoadedModel;
use crate::part::TensorView;
use cuda_sys::DeviceBuffer;
use gguf_format::GgmlType;
use half::{bf16, f16};
use model_phi3::Slot;
use zerocopy::{FromBytes, Immutable};

/// An element of weights that are not quantised: `f32`, `f64`, [`struct@f16`] or [`bf16`].
pub trait WeightElement: sealed::Sealed + FromBytes + Immutable {
    /// The ggml type of the element.
    const GGML_TYPE: GgmlType;
}

mod sealed {
    pub trait Sealed {}
}

/// Defines the elements.
macro_rules! elements {
    ($($element:ty = $ggml_type:ident),+) => {
        $(impl sealed::Sealed for $element {}
        impl WeightElement for $element {
            const GGML_TYPE: GgmlType = GgmlType::$ggml_type;
        })+
    };
}

elements!(f32 = F32, f64 = F64, f16 = F16, bf16 = BF16);

/// Returns the bytes of a view of the buffer; `None` if they are on a GPU.
pub(crate) fn bytes<'m>(buffer: &'m DeviceBuffer, view: &TensorView) -> Option<&'m [u8]> {
    let start = usize::try_from(view.address.checked_sub(buffer.address())?).ok()?;
    let end = start.checked_add(usize::try_from(view.bytes).ok()?)?;
    buffer.host_bytes()?.get(start..end)
}

/// Returns the elements of a view of the buffer; `None` if they are on a GPU or of another type.
pub(crate) fn slice<'m, T: WeightElement>(
    buffer: &'m DeviceBuffer,
    view: &TensorView,
) -> Option<&'m [T]> {
    if view.format.ggml_type() != T::GGML_TYPE {
        return None;
    }
    <[T]>::ref_from_bytes(bytes(buffer, view)?).ok()
}

impl LoadedModel {
    /// Returns the bytes of a weight in host memory, without copying them. `None` if the weight is on a GPU
    /// ([`read_slot`](Self::read_slot) copies it from there), or in the cases of [`slot`](Self::slot).
    pub fn host_bytes(&self, slot: Slot) -> Option<&[u8]> {
        let (part, view) = self.first(|part| part.whole_slot(slot))?;
        bytes(&part.buffer, &view)
    }

    /// Returns the elements of a weight in host memory, row-major, without copying them. `None` in the cases of
    /// [`host_bytes`](Self::host_bytes), or if the elements are of another type.
    ///
    /// ```
    /// # use loader::{DeviceChoice, LoadOptions, Loader, Slot, Unobserved};
    /// use loader::half::f16;
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
    /// # let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    /// let model = loader.load(path, &mut Unobserved)?;
    /// let norm = model.host_slice::<f16>(Slot::OutputNorm).ok_or("the weights are not f16 on the host")?;
    /// assert_eq!(norm.len() as u64, model.config().hidden);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn host_slice<T: WeightElement>(&self, slot: Slot) -> Option<&[T]> {
        let (part, view) = self.first(|part| part.whole_slot(slot))?;
        slice(&part.buffer, &view)
    }
}
