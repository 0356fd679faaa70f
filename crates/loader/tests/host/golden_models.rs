//! Loads whole files into host memory and compares them with gguf-py.

use crate::common::{expected, go_on, golden_models_load_exactly, model_path};
use loader::{DeviceChoice, Io, LoadOptions, Loader, Slot, Verify};

#[test]
fn golden_models_load_exactly_on_the_host() {
    golden_models_load_exactly(DeviceChoice::Host);
}

#[test]
fn weights_do_not_depend_on_read_method_threads_or_chunk_size() {
    let reference = |options: LoadOptions, name: &str| {
        let mut loader = Loader::new(options.device(DeviceChoice::Host).verify(Verify::Readback));
        let model = loader.load(model_path(name), &mut go_on).unwrap();
        let slots: Vec<_> =
            model.plan().whole().slots().iter().map(|planned| planned.slot).collect();
        slots.into_iter().map(|slot| model.read_slot(slot).unwrap().unwrap()).collect::<Vec<_>>()
    };
    for name in expected().keys() {
        let want = reference(LoadOptions::new(), name);
        for io in [Io::Auto, Io::Mapped, Io::Read, Io::Direct] {
            for threads in [1, 3] {
                for chunk in [1, 5000, 1 << 20] {
                    let options = LoadOptions::new().io(io).threads(threads).chunk_bytes(chunk);
                    assert!(reference(options, name) == want, "{name} {io:?} {threads} {chunk}");
                }
            }
        }
    }
}

#[test]
fn a_tied_output_has_the_address_of_the_embedding() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let model = loader.load(model_path("tied-gqa-bf16.gguf"), &mut go_on).unwrap();
    assert!(model.config().tied_output);
    assert_eq!(model.slot(Slot::Output), model.slot(Slot::TokenEmbedding));
    assert_eq!(model.weights().unwrap().output, model.weights().unwrap().token_embedding);
}

#[test]
fn fused_slices_are_contiguous_and_tensors_are_aligned() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let model = loader.load(model_path("fused-k-quants.gguf"), &mut go_on).unwrap();
    let layer = &model.weights().unwrap().layers[0];
    assert_eq!(layer.attn_q.address % 256, 0);
    assert_eq!(layer.attn_k.address, layer.attn_q.address + layer.attn_q.bytes);
    assert_eq!(layer.attn_v.address, layer.attn_k.address + layer.attn_k.bytes);
    assert_eq!(layer.ffn_up.address, layer.ffn_gate.address + layer.ffn_gate.bytes);
}

#[test]
fn residency_can_be_checked_again() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let model = loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    let residency = model.verify_residency().unwrap();
    assert_eq!(residency, model.stats().proof.residency);
    assert_eq!(residency.pointers_checked as usize, model.plan().whole().slots().len());
    assert_eq!(residency.vram_bytes, model.vram_bytes());
}
