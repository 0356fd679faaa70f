//! Tests of handing weights to other code: slices, shared tensors, C structs and DLPack tensors.

use crate::common::{expected, go_on, model_path, sha256};
use loader::dlpack::{DLDataType, DLDevice, READ_ONLY};
use loader::half::{bf16, f16};
use loader::{DeviceChoice, Fused, LoadOptions, LoadedModel, Loader, Slot, Storage};
use std::sync::Arc;

fn load(name: &str, storage: Storage) -> Arc<LoadedModel> {
    let options = LoadOptions::new().device(DeviceChoice::Host).storage(storage);
    Arc::new(Loader::new(options).load(model_path(name), &mut go_on).unwrap())
}

#[test]
fn slices_in_host_memory_are_the_weights_without_a_copy() {
    for storage in [Storage::F16, Storage::Native] {
        for (name, slots) in expected() {
            let model = load(&name, storage);
            for (slot, expected) in &slots {
                let Some(want) = expected.sha256(storage) else { continue };
                let slot: Slot = slot.parse().unwrap();
                let bytes = model.host_bytes(slot).unwrap();
                assert_eq!(sha256(bytes), want, "{name}: {slot}");
                let view = model.slot(slot).unwrap();
                assert_eq!(bytes.as_ptr() as u64, view.address, "{name}: {slot}");
                assert_eq!(model.share(slot).unwrap().host_bytes(), Some(bytes));
            }
        }
    }
}

#[test]
fn a_slice_has_only_the_type_of_its_elements() {
    let model = load("tied-gqa-bf16.gguf", Storage::F16);
    let q = Slot::AttnQ(1);
    let values: &[f16] = model.host_slice(q).unwrap();
    let bytes = model.read_slot(q).unwrap().unwrap();
    let read: Vec<f16> =
        bytes.chunks_exact(2).map(|value| f16::from_le_bytes([value[0], value[1]])).collect();
    assert_eq!(values, read);
    assert_eq!(model.share(q).unwrap().host_slice::<f16>(), Some(values));
    assert_eq!(model.host_slice::<f32>(q), None);
    assert_eq!(model.host_slice::<bf16>(q), None);
    assert_eq!(model.host_slice::<f32>(Slot::RopeFactorsLong).unwrap().len(), 6);
    assert_eq!(model.host_slice::<f16>(Slot::AttnQ(99)), None);

    let native = load("tied-gqa-bf16.gguf", Storage::Native);
    assert_eq!(native.host_slice::<bf16>(Slot::TokenEmbedding).unwrap().len() * 2, {
        native.slot(Slot::TokenEmbedding).unwrap().bytes as usize
    });
    let quantised = load("split-q8_0.gguf", Storage::Native);
    assert_eq!(quantised.host_slice::<f16>(q), None);
}

#[test]
fn a_shared_tensor_keeps_its_model_in_memory() {
    let model = load("fused-f16.gguf", Storage::F16);
    let left = Arc::downgrade(&model);
    let shared = model.share(Slot::OutputNorm).unwrap();
    let fused = model.share_fused(Fused::AttnQkv(0)).unwrap();
    let (view, bytes) = (model.slot(Slot::OutputNorm), model.read_slot(Slot::OutputNorm));
    drop(model);
    assert_eq!(Some(&*shared), view.as_ref());
    assert_eq!(shared.host_bytes(), bytes.unwrap().as_deref());
    drop(shared);
    assert!(left.upgrade().is_some());
    drop(fused);
    assert!(left.upgrade().is_none());
}

#[test]
fn a_fused_view_has_the_bytes_of_its_parts() {
    for (name, slots) in expected() {
        for storage in [Storage::F16, Storage::Native] {
            let model = load(&name, storage);
            for layer in 0..model.config().layers {
                for fused in [Fused::AttnQkv(layer), Fused::FfnGateUp(layer)] {
                    let parts: Vec<_> =
                        fused.slots().map(|slot| model.host_bytes(slot).unwrap()).collect();
                    let whole = model.share_fused(fused);
                    if name.contains("fused") && slots.len() > 1 {
                        assert!(whole.is_some(), "{name}: {fused}");
                    }
                    let Some(whole) = whole else { continue };
                    assert_eq!(whole.host_bytes().unwrap(), parts.concat(), "{name}: {fused}");
                    let rows: u64 =
                        fused.slots().map(|slot| model.slot(slot).unwrap().shape[0]).sum();
                    assert_eq!(whole.shape, [rows, model.config().hidden], "{name}: {fused}");
                }
            }
        }
    }
}

#[test]
fn the_c_structs_have_the_fused_views_and_can_keep_the_model() {
    let model = load("fused-f16.gguf", Storage::F16);
    let left = Arc::downgrade(&model);
    let stored = model.shared_c_weights().unwrap();
    let qkv = model.fused(Fused::AttnQkv(2)).unwrap();
    let gate_up = model.fused(Fused::FfnGateUp(2)).unwrap();
    drop(model);
    let stored = std::thread::spawn(move || stored).join().unwrap();
    let layer = &stored.layers()[2];
    assert_eq!(layer.attn_qkv.data as u64, qkv.address);
    assert_eq!([layer.attn_qkv.rows, layer.attn_qkv.cols], qkv.shape[..]);
    assert_eq!(layer.attn_qkv.rows * layer.attn_qkv.row_bytes, qkv.bytes);
    assert_eq!(layer.attn_qkv.data, layer.attn_q.data);
    assert_eq!(layer.ffn_gate_up.data as u64, gate_up.address);
    assert_eq!(layer.ffn_gate_up.bytes, layer.ffn_gate.bytes + layer.ffn_up.bytes);
    assert_eq!(stored.model().stats().vram_bytes, stored.model().vram_bytes());
    drop(stored);
    assert!(left.upgrade().is_none());

    let split = load("split-q8_0.gguf", Storage::F16);
    let c = split.c_weights().unwrap();
    assert_eq!(c.layers()[0].attn_qkv.data.is_null(), split.fused(Fused::AttnQkv(0)).is_none());
}

const F16: DLDataType = DLDataType { code: 2, bits: 16, lanes: 1 };
const F32: DLDataType = DLDataType { code: 2, bits: 32, lanes: 1 };
const BF16: DLDataType = DLDataType { code: 4, bits: 16, lanes: 1 };
const U8: DLDataType = DLDataType { code: 1, bits: 8, lanes: 1 };

/// The parts of a DLPack tensor that a consumer reads.
#[derive(Debug, PartialEq)]
struct Seen {
    address: u64,
    dtype: DLDataType,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// Reads a weight's DLPack tensor as a consumer does, and deletes it.
fn seen(model: &Arc<LoadedModel>, slot: Slot) -> Seen {
    let managed = model.share(slot).unwrap().to_dlpack().into_raw();
    // SAFETY: `into_raw` returns a valid pointer, which the deleter below has not freed yet.
    let tensor = unsafe { &*managed };
    assert_eq!((tensor.version.major, tensor.flags), (1, READ_ONLY));
    let data = &tensor.dl_tensor;
    assert_eq!(data.device, DLDevice { device_type: 1, device_id: 0 });
    assert_eq!(data.byte_offset, 0);
    let sizes = |first: *const i64| {
        let count = usize::try_from(data.ndim).unwrap();
        // SAFETY: DLPack defines that shape and strides have `ndim` elements.
        unsafe { std::slice::from_raw_parts(first, count) }.to_vec()
    };
    let seen = Seen {
        address: data.data as u64,
        dtype: data.dtype,
        shape: sizes(data.shape),
        strides: sizes(data.strides),
    };
    let delete = tensor.deleter.unwrap();
    // SAFETY: this is the only call for this tensor, and nothing uses it later.
    unsafe { delete(managed) };
    seen
}

#[test]
fn a_dlpack_tensor_describes_the_weight_without_a_copy() {
    let check = |model: &Arc<LoadedModel>, slot, dtype, shape: &[i64], strides: &[i64]| {
        let address = model.slot(slot).unwrap().address;
        let want = Seen { address, dtype, shape: shape.to_vec(), strides: strides.to_vec() };
        assert_eq!(seen(model, slot), want, "{slot}");
    };
    let model = load("tied-gqa-bf16.gguf", Storage::F16);
    let [rows, cols] = model.slot(Slot::AttnK(1)).unwrap().shape[..] else { panic!("a matrix") };
    check(&model, Slot::AttnK(1), F16, &[rows as i64, cols as i64], &[cols as i64, 1]);
    check(&model, Slot::OutputNorm, F16, &[cols as i64], &[1]);
    check(&model, Slot::RopeFactorsShort, F32, &[6], &[1]);
    let native = load("tied-gqa-bf16.gguf", Storage::Native);
    assert_eq!(seen(&native, Slot::TokenEmbedding).dtype, BF16);

    // Rows of 34 bytes for 32 values.
    let quantised = load("split-q8_0.gguf", Storage::Native);
    let view = quantised.slot(Slot::FfnDown(0)).unwrap();
    let (rows, row_bytes) = (view.shape[0] as i64, (view.shape[1] / 32 * 34) as i64);
    check(&quantised, Slot::FfnDown(0), U8, &[rows, row_bytes], &[row_bytes, 1]);
}

#[test]
fn a_thousand_dlpack_tensors_leave_the_model_as_it_was() {
    let model = load("fused-f16.gguf", Storage::F16);
    let left = Arc::downgrade(&model);
    for _ in 0..1000 {
        seen(&model, Slot::TokenEmbedding);
    }
    assert_eq!(Arc::strong_count(&model), 1);
    let kept = model.share(Slot::TokenEmbedding).unwrap().to_dlpack();
    drop(model);
    assert!(left.upgrade().is_some(), "a tensor keeps its model");
    std::thread::spawn(move || drop(kept)).join().unwrap();
    assert!(left.upgrade().is_none(), "the last tensor frees its model");
}

#[test]
fn a_model_has_the_metadata_of_its_file() {
    let model = load("fused-f16.gguf", Storage::F16);
    let file = Loader::new(LoadOptions::new()).inspect(model_path("fused-f16.gguf")).unwrap();
    assert!(model.metadata().iter().eq(file.metadata().iter()));
    assert!(!model.metadata().is_empty());
    let tokens = model.tokenizer().unwrap().tokens().map(|tokens| tokens.len() as u64);
    assert!(tokens.is_none_or(|tokens| tokens == model.config().vocab));
}
