//! Loads a model and reads its weights as `f64`.

use half::{bf16, f16};
use loader::gguf_format::GgmlType;
use loader::{
    DeviceChoice, LoadOptions, LoadedModel, Loader, Phi3Weights, Slot, Storage, Unobserved,
};
use std::error::Error;
use std::path::Path;

/// Loads a model into host memory.
pub(crate) fn load(path: &Path, storage: Storage) -> Result<LoadedModel, loader::Error> {
    let options = LoadOptions::new().device(DeviceChoice::Host).storage(storage);
    Loader::new(options).load(path, &mut Unobserved)
}

/// Copies all weights from the device. If the model was loaded with native storage, its types must be F16, F32
/// or BF16.
pub(crate) fn values(model: &LoadedModel) -> Result<Phi3Weights<Vec<f64>>, Box<dyn Error>> {
    let config = model.config();
    Phi3Weights::try_from_fn(config.layers, config.rope.factors, |slot| slot_values(model, slot))
}

fn slot_values(model: &LoadedModel, slot: Slot) -> Result<Vec<f64>, Box<dyn Error>> {
    let absent = || format!("the model has no {slot}");
    let view = model.slot(slot).ok_or_else(absent)?;
    let bytes = model.read_slot(slot)?.ok_or_else(absent)?;
    match view.format.ggml_type() {
        GgmlType::F16 => Ok(decoded(&bytes, |element| f16::from_le_bytes(element).to_f64())),
        GgmlType::F32 => Ok(decoded(&bytes, |element| f32::from_le_bytes(element).into())),
        GgmlType::BF16 => Ok(decoded(&bytes, |element| bf16::from_le_bytes(element).to_f64())),
        other => Err(format!("{slot} has {other} blocks; load the model with f16 storage").into()),
    }
}

fn decoded<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&element| decode(element)).collect()
}
