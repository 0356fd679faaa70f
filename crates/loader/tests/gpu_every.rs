//! Uses every GPU of the machine, one or several. If there is no GPU, the test fails. It is a separate program,
//! because it checks on which GPUs its process has a context.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "other targets use the rest")]
mod common;
#[path = "common/driver.rs"]
#[expect(dead_code, reason = "other targets use the rest")]
mod driver;

use common::{go_on, golden_models_load_exactly_in_parts, model_path};
use cuda_sys::Device;
use driver::Driver;
use loader::{
    DeviceChoice, DeviceKind, LoadOptions, LoadedModel, Loader, Placement, SplitMode, Storage,
    Verify,
};
use std::sync::Barrier;

const MODEL: &str = "fused-k-quants.gguf";

fn gpus() -> i32 {
    let gpus = i32::try_from(cuda_sys::cuda_devices().unwrap().len()).unwrap();
    assert!(gpus > 0, "this test needs a GPU");
    gpus
}

fn load(ordinal: i32) -> LoadedModel {
    let options = LoadOptions::new().device(DeviceChoice::Cuda(ordinal)).verify(Verify::Readback);
    let model = Loader::new(options).load(model_path(MODEL), &mut go_on).unwrap();
    assert_eq!(*model.device(), DeviceKind::Cuda(ordinal));
    model
}

/// Returns the bytes of the file that the load copied over each link.
fn links(model: &LoadedModel) -> Vec<u64> {
    model.stats().transfer.links.iter().map(|link| link.bytes).collect()
}

/// If the first two GPUs can copy from each other, copies of a model go over both links, each byte once, and a load to
/// one GPU can use the link of the other.
fn two_gpus_share_their_links() {
    let [first, second] = [0, 1].map(DeviceChoice::Cuda);
    let options = LoadOptions::new().chunk_bytes(64 << 10).verify(Verify::Readback);
    let replicate = Placement::new(SplitMode::Replicate, 2).unwrap();
    let both = options.clone().devices([first, second]).placement(replicate);
    let via = options.device(first).via([second]);
    for storage in [Storage::F16, Storage::Native] {
        let load = |options: &LoadOptions| {
            let options = options.clone().storage(storage);
            Loader::new(options).load(model_path(MODEL), &mut go_on).unwrap()
        };
        for model in [load(&both), load(&via)] {
            let (links, bytes) = (links(&model), model.stats().source_bytes);
            let has_peers = links.iter().sum::<u64>() == bytes && links[1] > 0;
            let half = bytes / 2;
            if has_peers {
                assert!(links.iter().all(|link| link.abs_diff(half) <= 128 << 10), "{links:?}");
            }
        }
        // Dropping one model and its loader leaves the other one usable.
        load(&via).fingerprint().unwrap();
    }
}

/// Nothing stays allocated on the first GPU if the second one is full.
fn a_full_second_gpu_fails_the_load() {
    let [first, second] = [0, 1].map(|ordinal| Device::open(DeviceKind::Cuda(ordinal)).unwrap());
    let free = |device: &Device| device.memory().unwrap().unwrap().free;
    let taken = second.allocate(free(&second) - (64 << 20)).unwrap();
    let before = (free(&first), free(&second));
    let mut devices: Vec<_> = (0..2).map(DeviceChoice::Cuda).collect();
    for _ in 0..2 {
        let needed = LoadOptions::new().devices(devices.clone()).reserve(1 << 30);
        let error = Loader::new(needed).load(model_path(MODEL), &mut go_on).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6), "{error}");
        assert!(error.to_string().starts_with("cuda:1 cannot hold the weights"), "{error}");
        assert_eq!((free(&first), free(&second)), before);
        devices.reverse();
    }
    drop(taken);
}

/// The GPUs are used one by one first and together last, because a process keeps its contexts.
#[test]
fn each_gpu_is_used_alone_and_several_at_once() {
    let (gpus, driver) = (gpus(), Driver::open());
    for ordinal in (0..gpus).rev() {
        let model = load(ordinal);
        model.fingerprint().unwrap();
        drop(model);
        for other in 0..ordinal {
            assert!(!driver.has_context(other), "a load to cuda:{ordinal} took cuda:{other}");
        }
        assert!(driver.current_context().is_null(), "the thread was left with a context");
    }

    const LOADERS_OF_GPU: i32 = 2;
    let want = load(0).fingerprint().unwrap();
    let resident = Barrier::new(usize::try_from(gpus * LOADERS_OF_GPU).unwrap());
    std::thread::scope(|scope| {
        for number in 0..gpus * LOADERS_OF_GPU {
            let (want, resident) = (&want, &resident);
            scope.spawn(move || {
                for _ in 0..3 {
                    let model = load(number % gpus);
                    assert!(model.fingerprint().unwrap() == *want);
                    // All models are loaded at this moment.
                    resident.wait();
                }
            });
        }
    });
    if gpus > 1 {
        for mode in [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate] {
            let devices = [DeviceChoice::Cuda(0), DeviceChoice::Cuda(gpus - 1)];
            golden_models_load_exactly_in_parts(&devices, mode);
        }
        two_gpus_share_their_links();
        a_full_second_gpu_fails_the_load();
    }
    println!("{gpus} GPU(s)");
}
