//! Uses every GPU of the machine, one or several. If there is no GPU, the test fails. It is a separate program,
//! because it checks on which GPUs its process has a context.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "other targets use the rest")]
mod common;
#[path = "common/driver.rs"]
#[expect(dead_code, reason = "other targets use the rest")]
mod driver;

use common::{go_on, golden_models_load_exactly_in_parts, model_path};
use driver::Driver;
use loader::{DeviceChoice, DeviceKind, LoadOptions, LoadedModel, Loader, SplitMode, Verify};
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
    }
    println!("{gpus} GPU(s)");
}
