//! The verification levels of a load, and the faults that they detect.

use crate::common::{expected, go_on, model_path};
use crate::small_model::write_large_model;
use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use loader::{DeviceChoice, Error, LoadOptions, LoadedModel, Loader, Rehash, Slot, Verify};

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host)
}

fn load(name: &str, options: LoadOptions) -> LoadedModel {
    Loader::new(options).load(model_path(name), &mut go_on).unwrap()
}

#[test]
fn every_verification_level_passes_for_correct_weights() {
    for verify in [Verify::Residency, Verify::Checksum, Verify::Readback] {
        for name in expected().keys() {
            load(name, options().verify(verify).deny_overflow(true));
        }
    }
}

/// Flips a bit of a weight in host memory.
fn flip(model: &LoadedModel, slot: Slot, at: u64, bit: u8) {
    let view = model.slot(slot).unwrap();
    assert!(at < view.bytes);
    let byte = (view.address + at) as *mut u8;
    // SAFETY: the address is inside the model's arena. The arena is host memory that lives as long as
    // `model`. No other thread uses it, and the threads of the engine have ended.
    let before = unsafe { byte.read_volatile() };
    // SAFETY: as for the read before.
    unsafe { byte.write_volatile(before ^ 1 << bit) };
}

/// Runs steps until a round is complete. Returns the number of bytes that each step digested.
fn round(rehash: &mut Rehash, model: &LoadedModel, budget: u64) -> Result<Vec<u64>, Error> {
    let mut steps = Vec::new();
    loop {
        let step = rehash.step(model, budget)?;
        steps.push(step.bytes);
        if step.round_complete {
            return Ok(steps);
        }
    }
}

#[test]
fn a_round_of_steps_reads_every_tensor_once() {
    let model = load("fused-f16.gguf", options());
    let tensors: Vec<_> =
        model.plan().whole().ops().iter().map(|op| op.dest.end - op.dest.start).collect();
    let all: u64 = tensors.iter().sum();
    let mut rehash = Rehash::new(model.fingerprint().unwrap());
    assert_eq!(rehash.rounds(), 0);
    assert_eq!(round(&mut rehash, &model, 0).unwrap(), tensors, "at least one tensor a step");
    assert_eq!(round(&mut rehash, &model, u64::MAX).unwrap(), [all], "at most one round a step");
    let budget = *tensors.iter().max().unwrap();
    let steps = round(&mut rehash, &model, budget).unwrap();
    assert_eq!(steps.iter().sum::<u64>(), all);
    assert!(1 < steps.len() && steps.len() < tensors.len());
    assert!(steps.iter().all(|&bytes| bytes <= budget), "{steps:?}");
    assert_eq!(rehash.rounds(), 3);

    let other = load("tied-gqa-bf16.gguf", options());
    assert!(matches!(rehash.step(&other, 1), Err(Error::Verification { .. })));
}

#[test]
fn steps_find_flipped_bits_and_name_their_tensors() {
    let model = load("fused-f16.gguf", options());
    let mut rehash = Rehash::new(model.fingerprint().unwrap());
    let last = model.plan().whole().ops().last().unwrap().tensor.to_string();
    for (slot, tensor) in [
        (Slot::TokenEmbedding, "token_embd.weight"),
        (Slot::FfnUp(1), "blk.1.ffn_up.weight"),
        (Slot::Output, "output.weight"),
        (
            model.plan().whole().slots().iter().find(|slot| *slot.tensor == *last).unwrap().slot,
            &last,
        ),
    ] {
        let end = model.slot(slot).unwrap().bytes - 1;
        for (at, bit) in [(0, 0), (end / 2, 3), (end, 7)] {
            flip(&model, slot, at, bit);
            let error = round(&mut rehash, &model, 5000).unwrap_err();
            assert_eq!((error.code(), error.exit_code()), ("VERIFICATION_FAILED", 9));
            assert!(error.to_string().contains(tensor), "{error}");
            let again = rehash.step(&model, 5000).unwrap_err();
            assert_eq!(
                again.to_string(),
                error.to_string(),
                "the next step compares the same pieces"
            );
            flip(&model, slot, at, bit);
            round(&mut rehash, &model, 5000).unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_in_a_large_tensor_is_located_within_16_mib() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    let model = Loader::new(options()).load(&path, &mut go_on).unwrap();
    let mut rehash = Rehash::new(model.fingerprint().unwrap());
    let steps = round(&mut rehash, &model, 1).unwrap();
    assert_eq!(steps.iter().max(), Some(&(16 << 20)));
    flip(&model, Slot::TokenEmbedding, 100 << 20, 0);
    let error = round(&mut rehash, &model, 1).unwrap_err();
    // Byte 100 Mi is in the seventh piece of 16 MiB.
    assert!(error.to_string().contains("bytes 100663296..117440512"), "{error}");
}

#[test]
fn a_flipped_bit_is_found_and_its_tensor_named() {
    let model = load("fused-k-quants.gguf", options());
    let healthy = model.fingerprint().unwrap();
    model.verify_fingerprint(&healthy).unwrap();
    for (slot, tensor) in [
        (Slot::TokenEmbedding, "token_embd.weight"),
        (Slot::AttnK(0), "blk.0.attn_qkv.weight"),
        (Slot::Output, "output.weight"),
    ] {
        let at = model.slot(slot).unwrap().bytes / 2;
        let flip = |bit| flip(&model, slot, at, bit);
        for bit in 0..8 {
            flip(bit);
            let error = model.verify_fingerprint(&healthy).unwrap_err();
            assert_eq!((error.code(), error.exit_code()), ("VERIFICATION_FAILED", 9));
            assert!(error.to_string().contains(tensor), "{error}");
            flip(bit);
        }
    }
    model.verify_fingerprint(&healthy).unwrap();
    let other = load("fused-f16.gguf", options()).fingerprint().unwrap();
    assert!(matches!(model.verify_fingerprint(&other), Err(Error::Verification { .. })));
}

#[test]
fn a_change_of_the_file_during_the_load_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "phi3").tensor("t", &[32], GgmlType::F32);
    let other = writer.to_bytes(|_, data| data.fill(1)).unwrap();
    let good = std::fs::read(model_path("fused-f16.gguf")).unwrap();
    type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let changes: [Change<'_>; 4] = [
        ("truncated", Box::new(|| truncate(&path, 1000))),
        ("rewritten", Box::new(|| std::fs::write(&path, &other).unwrap())),
        (
            "replaced",
            Box::new(|| {
                let next = dir.path().join("next.gguf");
                std::fs::write(&next, &good).unwrap();
                std::fs::rename(&next, &path).unwrap();
            }),
        ),
        ("removed", Box::new(|| std::fs::remove_file(&path).unwrap())),
    ];
    for (name, change) in changes {
        std::fs::write(&path, &good).unwrap();
        let error = Loader::new(options())
            .load(&path, &mut |event: &loader::LoadEvent<'_>| {
                if matches!(event, loader::LoadEvent::Allocated { .. }) {
                    change();
                }
                std::ops::ControlFlow::Continue(())
            })
            .expect_err(name);
        assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7), "{name}: {error}");
        assert!(error.to_string().contains("file changed"), "{name}: {error}");
    }
}

fn truncate(path: &std::path::Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}
