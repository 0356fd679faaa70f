//! `load --dump`: writes the weights on the devices as a safetensors file.

mod checkpoint;
mod checkpoint_config;
mod notes;

use clap::ValueEnum;
use loader::{CancelToken, Error, LoadedModel, OutputFile};
use model_phi3::{LoadPlan, PlannedSlot, SlotFormat, Storage};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The header is padded to a multiple of this number of bytes, so that the data after it is aligned.
const ALIGNMENT: usize = 8;

/// The names and the layout of the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Names {
    /// Weight slots of this program, such as `layers.0.attn_q`
    Slots,
    /// Those of the model's Hugging Face checkpoint, such as `model.layers.0.self_attn.qkv_proj.weight`
    Hf,
}

/// A tensor of the file.
struct Tensor<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    /// The weights whose rows it has, in this order.
    slots: Vec<&'a PlannedSlot>,
}

/// Reads every weight back and writes it. Parts on several devices are put together, and copies are compared. Holds
/// only one weight, and one part of it, in host memory at a time. Before each weight, checks the token, and calls
/// `progress` with the bytes of weights that are written and those of all weights. `source` is the file of the model.
pub(super) fn write(
    model: &LoadedModel,
    names: Names,
    source: &Path,
    target: &OutputFile,
    progress: &mut dyn FnMut(u64, u64),
    token: &CancelToken,
) -> Result<(), Error> {
    let failed = |source| target.failed(source);
    let plan = model.plan().whole();
    let mut tensors = match names {
        Names::Slots => slots(plan),
        Names::Hf => checkpoint::tensors(model.config(), plan),
    };
    // Tensors with wider elements come first, so that all are aligned.
    tensors.sort_by(|left, right| {
        right.dtype.cmp(&left.dtype).then_with(|| left.name.cmp(&right.name))
    });
    let notes = notes::of(model, names, source)?;
    let header = header(&tensors, notes).map_err(failed)?;
    let sizes = tensors.iter().flat_map(|tensor| &tensor.slots).copied().map(bytes_of);
    let all = sizes.clone().sum();
    let bytes = header.len() as u64 + all + sizes.max().unwrap_or(0);
    target.write(bytes, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&header).map_err(failed)?;
        let mut done = 0;
        for slot in tensors.iter().flat_map(|tensor| &tensor.slots) {
            token.check()?;
            progress(done, all);
            let bytes = model.read_slot(slot.slot)?.unwrap_or_default();
            let written = match names {
                Names::Slots => file.write_all(&bytes),
                Names::Hf => checkpoint::write(model.config(), slot, &bytes, &mut file),
            };
            written.map_err(failed)?;
            done += bytes.len() as u64;
        }
        file.flush().map_err(failed)
    })
}

/// Returns a tensor for each weight. Native storage is dumped as bytes.
fn slots<'a>(plan: &'a LoadPlan) -> Vec<Tensor<'a>> {
    let tensor = |slot: &'a PlannedSlot| {
        let (dtype, shape) = match (plan.storage(), slot.format) {
            (Storage::F16, SlotFormat::F16) => (Dtype::F16, slot.shape.clone()),
            (Storage::F16, SlotFormat::F32) => (Dtype::F32, slot.shape.clone()),
            _ => (Dtype::U8, vec![bytes_of(slot)]),
        };
        Tensor { name: slot.slot.to_string(), dtype, shape, slots: vec![slot] }
    };
    plan.slots().iter().map(tensor).collect()
}

#[derive(Serialize)]
struct Header {
    /// In a map of its own: that of [`Metadata`] has no order, and two dumps of a model would differ.
    #[serde(rename = "__metadata__")]
    notes: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: Metadata,
}

/// Returns the bytes before the data of the tensors.
fn header(tensors: &[Tensor<'_>], notes: BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|Tensor { name, dtype, shape, slots }| {
        let start = end;
        end += to_usize(slots.iter().copied().map(bytes_of).sum());
        let shape = shape.iter().copied().map(to_usize).collect();
        (name.clone(), TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) })
    });
    let tensors = Metadata::new(None, infos.collect()).map_err(io::Error::other)?;
    let mut json = serde_json::to_vec(&Header { notes, tensors })?;
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn bytes_of(slot: &PlannedSlot) -> u64 {
    slot.dest.end - slot.dest.start
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader::{DeviceChoice, LoadOptions, Loader, Unobserved};
    use std::fs;

    #[test]
    fn a_cancelled_dump_keeps_the_existing_file_and_leaves_no_temporary_file() {
        let model_path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
        let options = LoadOptions::new().device(DeviceChoice::Host);
        let model = Loader::new(options).load(model_path, &mut Unobserved).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.safetensors");
        fs::write(&path, "old content").unwrap();
        let cancelled = CancelToken::new();
        cancelled.cancel();
        let target = OutputFile::find(&path).unwrap();
        let source = Path::new(model_path);
        let error = write(&model, Names::Slots, source, &target, &mut |_, _| (), &cancelled);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old content");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
