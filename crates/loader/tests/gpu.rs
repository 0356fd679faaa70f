//! Loads whole files on the first GPU. If there is no GPU, the tests fail. `cargo xtask test-gpu` runs
//! them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{go_on, golden_models_load_exactly, golden_models_load_exactly_in_parts, model_path};
use loader::dlpack::{DLDevice, READ_ONLY};
use loader::half::f16;
use loader::{DeviceChoice, DeviceKind, Fused, Io, LoadOptions, Loader, Slot, SplitMode, Verify};
use std::sync::Arc;

#[test]
fn golden_models_load_exactly_on_the_gpu() {
    golden_models_load_exactly(DeviceChoice::Cuda(0));
}

#[test]
fn golden_models_load_exactly_to_two_arenas_of_the_gpu_and_to_gpu_and_host() {
    let gpu = DeviceChoice::Cuda(0);
    for devices in [[gpu, gpu], [gpu, DeviceChoice::Host], [DeviceChoice::Host, gpu]] {
        for mode in [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate] {
            golden_models_load_exactly_in_parts(&devices, mode);
        }
    }
}

#[test]
fn arenas_on_one_gpu_count_together() {
    let devices = [DeviceChoice::Cuda(0), DeviceChoice::Host, DeviceChoice::Cuda(0)];
    let path = model_path("fused-f16.gguf");
    let plan = Loader::new(LoadOptions::new().devices(devices)).plan(&path).unwrap().plan;
    let on_gpu = plan.parts()[0].device_bytes() + plan.parts()[2].device_bytes();
    let limited = |limit| Loader::new(LoadOptions::new().devices(devices).vram_limit(limit));
    limited(on_gpu).load(&path, &mut go_on).unwrap();
    let error = limited(on_gpu - 1).load(&path, &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
    assert!(error.to_string().starts_with("cuda:0 cannot hold the weights"), "{error}");
}

#[test]
fn auto_chooses_the_gpu() {
    let model =
        Loader::new(LoadOptions::new()).load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    assert_eq!(*model.device(), DeviceKind::Cuda(0));
    assert!(model.stats().transfer.pinned);
    for view in model.weights().unwrap().iter().map(|(_, view)| view) {
        assert!(view.bytes > 0);
    }
}

#[test]
fn weights_equal_the_file_for_every_read_method_thread_count_and_chunk_size() {
    for io in [Io::Auto, Io::Mapped, Io::Read, Io::Direct] {
        for (threads, chunk) in [(1, 1), (3, 5000), (8, 4 << 20)] {
            let options = LoadOptions::new()
                .device(DeviceChoice::Cuda(0))
                .io(io)
                .threads(threads)
                .chunk_bytes(chunk)
                .verify(Verify::Readback);
            let mut loader = Loader::new(options);
            for name in common::expected().keys() {
                loader.load(model_path(name), &mut go_on).unwrap();
            }
        }
    }
}

#[test]
fn a_prepared_loader_opens_no_device_and_knows_what_fits() {
    let path = model_path("fused-f16.gguf");
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Cuda(0)));
    loader.start_preparing();
    assert_eq!(loader.prepare().unwrap(), DeviceKind::Cuda(0));
    assert!(loader::cuda_devices().unwrap().iter().any(|gpu| gpu.ordinal == 0));
    let fit = loader.fits(&path).unwrap();
    assert!(fit.fits());
    // Memory for conversions is on the device, too.
    assert!(fit.required > fit.planned.plan.device_bytes());
    assert!(fit.free <= fit.total && fit.after_kv_cache < fit.free);
    let phases = loader.load(&path, &mut go_on).unwrap().stats().phases;
    assert_eq!((phases.context_seconds, phases.pin_seconds), (0.0, 0.0));
}

#[test]
fn weights_on_the_gpu_are_handed_on_by_their_address() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Cuda(0)));
    let model = Arc::new(loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap());
    let q = model.share(Slot::AttnQ(0)).unwrap();
    assert_eq!((q.device(), q.host_bytes()), (DeviceKind::Cuda(0), None));
    assert_eq!(model.host_slice::<f16>(Slot::AttnQ(0)), None);
    assert_eq!(model.fused(Fused::AttnQkv(0)).unwrap().address, q.address);
    assert_eq!(model.shared_c_weights().unwrap().get().cuda_ordinal, 0);

    let left = Arc::downgrade(&model);
    let tensor = q.to_dlpack();
    drop((model, q));
    // SAFETY: the struct is valid as long as `tensor`.
    let managed = unsafe { &*tensor.as_ptr() };
    assert_eq!(managed.flags, READ_ONLY);
    assert_eq!(managed.dl_tensor.device, DLDevice { device_type: 2, device_id: 0 });
    let address = left.upgrade().unwrap().slot(Slot::AttnQ(0)).unwrap().address;
    assert_eq!(managed.dl_tensor.data as u64, address);
    // A thread without a GPU context can free the model.
    std::thread::spawn(move || drop(tensor)).join().unwrap();
    assert!(left.upgrade().is_none());
}

#[test]
fn a_memory_limit_below_the_weights_fails_and_names_the_device() {
    let options = LoadOptions::new().device(DeviceChoice::Cuda(0)).vram_limit(1000);
    let error = Loader::new(options).load(model_path("fused-f16.gguf"), &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
    assert!(error.to_string().contains("cuda:0"), "{error}");
}
