//! Loads whole files on the first GPU. If there is no GPU, the tests fail. `cargo xtask test-gpu` runs
//! them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{go_on, golden_models_load_exactly, model_path};
use loader::{DeviceChoice, DeviceKind, Io, LoadOptions, Loader, Verify};

#[test]
fn golden_models_load_exactly_on_the_gpu() {
    golden_models_load_exactly(DeviceChoice::Cuda(0));
}

#[test]
fn auto_chooses_the_gpu() {
    let model =
        Loader::new(LoadOptions::new()).load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    assert_eq!(model.device(), DeviceKind::Cuda(0));
    assert!(model.stats().transfer.pinned);
    for view in model.weights().iter().map(|(_, view)| view) {
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
fn a_memory_limit_below_the_weights_fails_and_names_the_device() {
    let options = LoadOptions::new().device(DeviceChoice::Cuda(0)).vram_limit(1000);
    let error = Loader::new(options).load(model_path("fused-f16.gguf"), &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
    assert!(error.to_string().contains("cuda:0"), "{error}");
}
