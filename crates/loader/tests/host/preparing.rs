//! Tests of opening a device ahead, and of the memory that a model needs.

use crate::common::{go_on, model_path};
use loader::{DeviceChoice, DeviceKind, KvDtype, LoadOptions, Loader};

fn host() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host)
}

#[test]
fn a_load_after_preparing_opens_no_device() {
    let path = model_path("fused-f16.gguf");
    let mut loader = Loader::new(host());
    let opened = loader.load(&path, &mut go_on).unwrap().stats().phases;
    assert!(opened.context_seconds > 0.0 && opened.pin_seconds > 0.0, "{opened:?}");

    let mut loader = Loader::new(host());
    assert_eq!(loader.prepare().unwrap(), DeviceKind::Host);
    assert_eq!(loader.prepare().unwrap(), DeviceKind::Host);
    let prepared = loader.load(&path, &mut go_on).unwrap().stats().phases;
    assert_eq!((prepared.context_seconds, prepared.pin_seconds), (0.0, 0.0));
}

#[test]
fn a_load_waits_for_a_device_that_is_being_opened() {
    let mut loader = Loader::new(host());
    loader.start_preparing();
    loader.start_preparing();
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    Loader::new(host()).start_preparing();
}

#[test]
fn a_device_that_does_not_exist_cannot_be_prepared() {
    let absent = || LoadOptions::new().device(DeviceChoice::Cuda(i32::MAX));
    let error = Loader::new(absent()).prepare().unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("DEVICE_UNAVAILABLE", 5));
    let error = Loader::new(absent()).fits(model_path("fused-f16.gguf")).unwrap_err();
    assert_eq!(error.code(), "DEVICE_UNAVAILABLE");

    let mut loader = Loader::new(absent());
    loader.start_preparing();
    let error = loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap_err();
    assert_eq!(error.code(), "DEVICE_UNAVAILABLE");
}

#[test]
fn a_model_that_fits_has_its_figures() {
    let path = model_path("fused-f16.gguf");
    let fit = Loader::new(host().reserve(1 << 20)).fits(&path).unwrap();
    let planned = Loader::new(host()).plan(&path).unwrap();
    assert!(fit.fits());
    assert_eq!(fit.device, DeviceKind::Host);
    assert_eq!((fit.short_by, fit.reserve), (0, 1 << 20));
    assert_eq!(fit.required, planned.plan.device_bytes());
    let free = fit.free.unwrap();
    assert!(free > fit.required && free <= fit.total.unwrap());
    let cache = |context| fit.planned.config.kv_cache_bytes(context, 1, KvDtype::F16);
    let whole = cache(u64::from(planned.config.context_length));
    assert_eq!(fit.kv_cache, whole);
    assert_eq!(fit.after_kv_cache, Some(free - fit.required - whole.unwrap()));
    assert_eq!(
        fit.after_cache_of(7, 1, KvDtype::F16),
        Some(free - fit.required - cache(7).unwrap())
    );
    assert_eq!(fit.after_cache_of(u64::MAX, 1, KvDtype::F16), None);
    assert_eq!(fit.short_by_with_cache_of(u64::MAX, 1, KvDtype::F16), None);
    assert_eq!(fit.short_by_with_cache_of(7, 1, KvDtype::F16), Some(0));
    let large = 1 << 40;
    assert_eq!(
        fit.short_by_with_cache_of(large, 1, KvDtype::F16),
        Some(fit.required + cache(large).unwrap() - free)
    );
}

#[test]
fn a_model_that_does_not_fit_says_how_many_bytes_are_missing() {
    let path = model_path("fused-f16.gguf");
    let weights = Loader::new(host()).plan(&path).unwrap().plan.device_bytes();
    let limited = Loader::new(host().vram_limit(weights - 5)).fits(&path).unwrap();
    assert_eq!((limited.short_by, limited.fits(), limited.after_kv_cache), (5, false, None));
    let exact = Loader::new(host().vram_limit(weights)).fits(&path).unwrap();
    assert_eq!((exact.short_by, exact.fits()), (0, true));

    let most = u64::MAX / 2;
    let reserved = Loader::new(host().reserve(most)).fits(&path).unwrap();
    assert!(!reserved.fits());
    assert_eq!(reserved.short_by, most + weights - reserved.free.unwrap());
    let mut loader = Loader::new(host().reserve(most));
    let error = loader.load(&path, &mut go_on).unwrap_err();
    assert_eq!(error.code(), "INSUFFICIENT_VRAM");
    loader.set_reserve(0);
    loader.load(&path, &mut go_on).unwrap();
}

#[test]
fn an_option_out_of_range_is_the_callers_error() {
    for (options, range) in [
        (host().threads(0), "threads is 0, but must be from 1 to 256"),
        (host().threads(257), "threads is 257, but must be from 1 to 256"),
        (host().depth(0), "depth is 0, but must be from 1 to 1024"),
        (host().depth(u32::MAX), "depth is 4294967295, but must be from 1 to 1024"),
        (host().chunk_bytes(0), "chunk_bytes is 0, but must be from 1 to 1073741824"),
        (host().chunk_bytes(u64::MAX), "but must be from 1 to 1073741824"),
    ] {
        let path = model_path("fused-f16.gguf");
        for error in [
            Loader::new(options.clone()).prepare().unwrap_err(),
            Loader::new(options.clone()).fits(&path).unwrap_err(),
            Loader::new(options.clone()).load(&path, &mut go_on).unwrap_err(),
        ] {
            assert_eq!((error.code(), error.exit_code()), ("INVALID_OPTION", 2), "{error}");
            assert!(!error.retriable() && error.to_string().contains(range), "{error}");
        }
    }
}

#[test]
fn gpus_are_listed_if_the_build_knows_them() {
    if !loader::cuda_compiled() {
        assert_eq!(loader::cuda_devices().unwrap(), []);
    }
}
