//! `load --dump`: writes the weights on the devices as a safetensors file.

use loader::{CancelToken, Error, LoadedModel, OutputFile};
use model_phi3::{PlannedSlot, SlotFormat, Storage};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::io::{self, BufWriter, Write};

/// The header is padded to a multiple of this number of bytes, so that the data after it is aligned.
const ALIGNMENT: usize = 8;

/// Reads every weight back and writes it under its name. Parts on several devices are put together, and copies are
/// compared. Holds only one weight, and one part of it, in host memory at a time. Before each weight, checks the token,
/// and calls `progress` with the bytes of weights that are written and those of all weights.
pub(super) fn write(
    model: &LoadedModel,
    target: &OutputFile,
    progress: &mut dyn FnMut(u64, u64),
    token: &CancelToken,
) -> Result<(), Error> {
    let failed = |source| target.failed(source);
    let (header, slots) = layout(model).map_err(failed)?;
    let sizes = slots.iter().map(|slot| slot.dest.end - slot.dest.start);
    let all = sizes.clone().sum();
    let bytes = header.len() as u64 + all + sizes.max().unwrap_or(0);
    target.write(bytes, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&header).map_err(failed)?;
        let mut written = 0;
        for slot in slots {
            token.check()?;
            progress(written, all);
            let bytes = model.read_slot(slot.slot)?.unwrap_or_default();
            file.write_all(&bytes).map_err(failed)?;
            written += bytes.len() as u64;
        }
        file.flush().map_err(failed)
    })
}

/// Returns the bytes before the data, and the slots in the order of their data. Slots with wider elements come
/// first, so that all slots are aligned.
fn layout(model: &LoadedModel) -> io::Result<(Vec<u8>, Vec<&PlannedSlot>)> {
    let plan = model.plan().whole();
    let storage = plan.storage();
    let mut slots: Vec<_> = plan.slots().iter().map(|slot| (slot.slot.to_string(), slot)).collect();
    slots.sort_by(|(left_name, left), (right_name, right)| {
        dtype(right, storage).cmp(&dtype(left, storage)).then_with(|| left_name.cmp(right_name))
    });
    let mut end = 0;
    let tensors = slots.iter().map(|(name, slot)| {
        let start = end;
        end += to_usize(slot.dest.end - slot.dest.start);
        let dtype = dtype(slot, storage);
        let shape = match dtype {
            Dtype::U8 => vec![end - start],
            _ => slot.shape.iter().map(|&dim| to_usize(dim)).collect(),
        };
        (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let metadata = Metadata::new(None, tensors.collect()).map_err(io::Error::other)?;
    let mut json = serde_json::to_vec(&metadata)?;
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok((header, slots.into_iter().map(|(_, slot)| slot).collect()))
}

/// Returns the safetensors type of a slot's elements. Native storage is dumped as bytes.
fn dtype(slot: &PlannedSlot, storage: Storage) -> Dtype {
    match (storage, slot.format) {
        (Storage::F16, SlotFormat::F16) => Dtype::F16,
        (Storage::F16, SlotFormat::F32) => Dtype::F32,
        _ => Dtype::U8,
    }
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
        let error = write(&model, &target, &mut |_, _| (), &cancelled).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old content");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
