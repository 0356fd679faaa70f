//! The conformance suite on the first GPU. Fails if there is none. `cargo xtask test-gpu` runs it; `cargo
//! test` without the feature `cuda` does not build it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;

use conformance::{Setup, device_suite, engine_suite};
use cuda_sys::{Device, DeviceKind, ErrorCode};

device_suite!(DeviceKind::Cuda(0));
engine_suite!(Setup { device: DeviceKind::Cuda(0), lanes: 1 });

mod two_lanes {
    use super::{DeviceKind, Setup, conformance};

    conformance::engine_suite!(Setup { device: DeviceKind::Cuda(0), lanes: 2 });
}

#[test]
fn lanes_hand_bytes_on() {
    conformance::lanes_hand_bytes_on([DeviceKind::Cuda(0); 2]);
    conformance::lanes_hand_bytes_on([DeviceKind::Cuda(0), DeviceKind::Host]);
    if cuda_sys::cuda_devices().unwrap().len() > 1 {
        conformance::lanes_hand_bytes_on([DeviceKind::Cuda(0), DeviceKind::Cuda(1)]);
        conformance::lanes_hand_bytes_on([DeviceKind::Cuda(1), DeviceKind::Cuda(0)]);
    }
}

#[test]
fn ordinals_beyond_the_last_gpu_are_unavailable() {
    let visible = i32::try_from(cuda_sys::cuda_devices().unwrap().len()).unwrap();
    assert!(visible > 0, "this test needs a GPU");
    for ordinal in [visible, -1] {
        let error = Device::open(DeviceKind::Cuda(ordinal)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceUnavailable);
    }
}

#[test]
fn freeing_gives_the_memory_back() {
    let device = Device::open(DeviceKind::Cuda(0)).unwrap();
    drop(device.allocate(1 << 30).unwrap());
    let before = device.memory().unwrap().unwrap().free;
    let buffer = device.allocate(1 << 30).unwrap();
    let during = device.memory().unwrap().unwrap().free;
    drop(buffer);
    assert!(before - during >= 1 << 30);
    assert_eq!(device.memory().unwrap().unwrap().free, before);
}
