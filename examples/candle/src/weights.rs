//! Weights as tensors of candle.

use std::error::Error;

use candle_core::{Device, Tensor};
use loader::half::f16;
use loader::{LoadedModel, Slot};

/// Returns a weight as a tensor of candle, which may outlive the model.
///
/// This copies the weight once. A copy is necessary: the storage of a CPU tensor of candle 0.11 is a `Vec` of
/// its own, which cannot borrow memory.
///
/// # Errors
///
/// If the model has no such slot, is not in host memory, or has it in another format than f16.
pub(crate) fn tensor(model: &LoadedModel, slot: Slot) -> Result<Tensor, Box<dyn Error>> {
    let view = model.slot(slot).ok_or_else(|| format!("the model has no {slot}"))?;
    let elements = model
        .host_slice::<f16>(slot)
        .ok_or_else(|| format!("{slot} is not f16 in host memory, but {:?}", view.format))?;
    let shape: Vec<_> = view.shape.iter().map(|&size| size as usize).collect();
    Ok(Tensor::from_slice(elements, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use loader::{DeviceChoice, LoadOptions, Loader, Unobserved};

    #[test]
    fn a_tensor_has_the_elements_of_its_weight_and_outlives_the_model() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/long-context-f16.gguf");
        let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
        let model = loader.load(path, &mut Unobserved).unwrap();
        let expected = model.host_slice::<f16>(Slot::OutputNorm).unwrap().to_vec();
        let norm = tensor(&model, Slot::OutputNorm).unwrap();
        // The RoPE factors are f32.
        let error = tensor(&model, Slot::RopeFactorsShort).unwrap_err().to_string();
        assert_eq!(error, "rope_factors_short is not f16 in host memory, but F32");
        let error = tensor(&model, Slot::AttnQ(99)).unwrap_err().to_string();
        assert_eq!(error, "the model has no layers.99.attn_q");
        drop(model);
        assert_eq!((norm.dtype(), norm.dims()), (DType::F16, &[expected.len()][..]));
        assert_eq!(norm.to_vec1::<f16>().unwrap(), expected);
    }
}
