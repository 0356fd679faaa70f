//! Loads a model of real size on the first GPU many times. If there is no GPU, the tests fail.
//!
//! The model has the shapes of Phi-3-mini and the types of Q4_K_M. The file has 2.4 GB, and the weights
//! take 7.6 GB on the device as f16. Each run writes the file to the temporary folder once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use cuda_sys::{Device, DeviceBuffer};
use loader::{
    CancelToken, DeviceChoice, DeviceKind, LoadEvent, LoadOptions, LoadedModel, Loader, Rehash,
    Slot, Storage, Verify, synth,
};
use model_phi3::preset::{Layout, Preset, TypeMix};
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Barrier, OnceLock};

const GPU: DeviceKind = DeviceKind::Cuda(0);

fn model_path() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mini-4k.gguf");
        let options = synth::SynthOptions::new(Preset::Mini4k, Layout::Fused, TypeMix::Q4_K_M, 7);
        synth::write(&path, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        (folder, path)
    });
    path
}

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Cuda(0))
}

fn go_on(_: &LoadEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn load(loader: &mut Loader) -> LoadedModel {
    loader.load(model_path(), &mut go_on).unwrap()
}

/// Returns the free memory after the process and the driver have allocated everything that they keep: the
/// context and the code of every kernel of a load.
fn settled_free_memory() -> (Device, u64) {
    for storage in [Storage::F16, Storage::Native] {
        let options = options().storage(storage).verify(Verify::Checksum);
        let model = load(&mut Loader::new(options));
        model.fingerprint().unwrap();
    }
    let device = Device::open(GPU).unwrap();
    let free = device.memory().unwrap().unwrap().free;
    (device, free)
}

#[test]
fn a_hundred_loads_leak_no_device_memory() {
    let (device, before) = settled_free_memory();
    let mut loader = Loader::new(options());
    for load_number in 0..100 {
        let model = load(&mut loader);
        let taken = before - device.memory().unwrap().unwrap().free;
        assert!(taken >= model.vram_bytes(), "load {load_number}: {taken} bytes taken");
    }
    drop(loader);
    assert_eq!(device.memory().unwrap().unwrap().free, before);
    for _ in 0..10 {
        load(&mut Loader::new(options()));
    }
    assert_eq!(device.memory().unwrap().unwrap().free, before, "after dropping every loader");
}

#[test]
fn eight_threads_that_load_at_once_leak_no_device_memory() {
    const THREADS: usize = 8;
    let (device, before) = settled_free_memory();
    // Use the storage in which eight models fit on the device.
    let room = |storage| {
        let plan = Loader::new(options().storage(storage)).plan(model_path()).unwrap().plan;
        before / 9 >= plan.device_bytes()
    };
    let storage = [Storage::F16, Storage::Native].into_iter().find(|&storage| room(storage));
    let storage = storage.expect("the GPU holds eight models of 2.4 GB");
    let want = load(&mut Loader::new(options().storage(storage))).fingerprint().unwrap();
    let together = || {
        let resident = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let options = options().storage(storage).threads(2).verify(Verify::Checksum);
                    let mut loader = Loader::new(options);
                    for _ in 0..3 {
                        let model = load(&mut loader);
                        assert!(model.fingerprint().unwrap() == want);
                        // All models are loaded at this moment.
                        resident.wait();
                    }
                });
            }
        });
        device.memory().unwrap().unwrap().free
    };
    // The driver keeps some MiB that it allocated for the streams of all threads.
    let settled = together();
    assert!(before - settled < 64 << 20, "{before} bytes free before, {settled} after");
    for _ in 0..3 {
        assert_eq!(together(), settled);
    }
}

#[test]
fn a_load_that_is_cancelled_at_any_moment_leaks_no_device_memory() {
    let (device, before) = settled_free_memory();
    let mut loader = Loader::new(options());
    let whole = load(&mut loader).stats().source_bytes;
    let with_loader = device.memory().unwrap().unwrap().free;
    for part in 0..20 {
        let token = CancelToken::new();
        let cancelled = loader.load_cancellable(
            model_path(),
            &mut |event: &LoadEvent<'_>| {
                if matches!(event, LoadEvent::Progress { bytes, .. } if *bytes >= whole / 20 * part)
                {
                    token.cancel();
                }
                ControlFlow::Continue(())
            },
            &token,
        );
        assert_eq!(cancelled.unwrap_err().code(), "CANCELLED");
        assert_eq!(
            device.memory().unwrap().unwrap().free,
            with_loader,
            "cancelled after {part}/20"
        );
    }
    load(&mut loader);
    drop(loader);
    assert_eq!(device.memory().unwrap().unwrap().free, before);
}

#[test]
fn a_load_on_a_full_device_fails_and_succeeds_after_memory_is_freed() {
    let (device, before) = settled_free_memory();
    let plan = Loader::new(options()).plan(model_path()).unwrap().plan;
    // Leave half of the memory that the model needs.
    let taken: DeviceBuffer = device.allocate(before - plan.device_bytes() / 2).unwrap();
    let mut loader = Loader::new(options());
    let error = loader.load(model_path(), &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
    assert!(error.retriable(), "other processes can free memory");
    assert!(error.to_string().contains("cuda:0"), "{error}");
    drop(taken);
    load(&mut loader);
    drop(loader);
    assert_eq!(device.memory().unwrap().unwrap().free, before);
}

unsafe extern "C" {
    fn cudaMemcpy(dst: *mut c_void, src: *const c_void, count: usize, kind: i32) -> i32;
}
const HOST_TO_DEVICE: i32 = 1;
const DEVICE_TO_HOST: i32 = 2;

/// Flips a bit of a weight in device memory, without using the library.
fn flip(model: &LoadedModel, slot: Slot, at: u64, bit: u8) {
    let view = model.slot(slot).unwrap();
    assert!(at < view.bytes);
    let address = (view.address + at) as *mut c_void;
    let mut byte = 0_u8;
    // SAFETY: the address is inside the model's arena. The arena is GPU memory that lives as long as
    // `model`. One byte is copied from and to it.
    let read = unsafe { cudaMemcpy((&raw mut byte).cast(), address, 1, DEVICE_TO_HOST) };
    byte ^= 1 << bit;
    // SAFETY: as for the copy before.
    let written = unsafe { cudaMemcpy(address, (&raw const byte).cast(), 1, HOST_TO_DEVICE) };
    assert_eq!((read, written), (0, 0));
}

#[test]
fn one_flipped_bit_in_a_large_model_is_found_and_its_tensor_named() {
    let model = load(&mut Loader::new(options()));
    assert!(model.vram_bytes() > 7_600_000_000);
    let fingerprint = model.fingerprint().unwrap();
    model.verify_fingerprint(&fingerprint).unwrap();
    let last = model.slot(Slot::Output).unwrap().bytes - 1;
    for (slot, at, bit, tensor) in [
        (Slot::TokenEmbedding, 0, 0, "token_embd.weight"),
        (Slot::AttnK(17), 1_234_567, 3, "blk.17.attn_qkv.weight"),
        (Slot::FfnUp(31), 99, 7, "blk.31.ffn_up.weight"),
        (Slot::Output, last, 6, "output.weight"),
    ] {
        flip(&model, slot, at, bit);
        let error = model.verify_fingerprint(&fingerprint).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("VERIFICATION_FAILED", 9));
        assert!(error.to_string().contains(tensor), "{error}");

        // A worker checks the model in small steps.
        let mut rehash = Rehash::new(fingerprint.clone());
        let found = loop {
            match rehash.step(&model, 256 << 20) {
                Ok(step) => assert!(!step.round_complete, "a round passed over {tensor}"),
                Err(error) => break error,
            }
        };
        assert!(found.to_string().contains(tensor), "{found}");
        flip(&model, slot, at, bit);
        model.verify_fingerprint(&fingerprint).unwrap();
    }
    assert_eq!(model.verify_residency().unwrap(), model.stats().proof.residency);
}
