//! The conformance suite on the first GPU. Fails if there is none. `cargo xtask test-gpu` runs it; `cargo
//! test` without the feature `cuda` does not build it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;

use conformance::{Setup, device_suite, engine_suite};
use cuda_sys::{Access, Device, DeviceKind, ErrorCode};
use std::os::fd::AsFd;

device_suite!(DeviceKind::Cuda(0));
engine_suite!(Setup::plain(DeviceKind::Cuda(0), 1));

mod two_lanes {
    use super::{DeviceKind, Setup, conformance};

    conformance::engine_suite!(Setup::plain(DeviceKind::Cuda(0), 2));
}

mod shareable {
    use super::{DeviceKind, Setup, conformance};

    conformance::engine_suite!(Setup::shareable(DeviceKind::Cuda(0)));
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
    for setup in [Setup::plain(DeviceKind::Cuda(0), 1), Setup::shareable(DeviceKind::Cuda(0))] {
        let device = Device::open(setup.device).unwrap();
        drop(setup.allocate(&device, 1 << 30).unwrap());
        let free = || device.memory().unwrap().unwrap().free;
        let before = free();
        let buffer = setup.allocate(&device, 1 << 30).unwrap();
        let during = free();
        drop(buffer);
        assert!(before - during >= 1 << 30);
        assert_eq!(free(), before);
    }
}

#[test]
fn shared_memory_is_freed_with_its_last_descriptor() {
    const BYTES: u64 = 3 << 29;
    let device = Device::open(DeviceKind::Cuda(0)).unwrap();
    let free = || device.memory().unwrap().unwrap().free;
    drop(device.allocate_shareable(BYTES).unwrap());
    let before = free();
    let mut buffer = device.allocate_shareable(BYTES).unwrap();
    let shares = buffer.share().unwrap();
    assert!(shares.len() > 1, "the memory has several pieces");
    drop(buffer);
    assert!(before - free() >= BYTES);
    let views: Vec<_> = shares.iter().map(|of| (of.descriptor.as_fd(), of.bytes)).collect();
    let imported = device.import(&views, BYTES, Access::ReadOnly).unwrap();
    assert!(before - free() < 2 * BYTES, "importing takes no memory");
    drop(imported);
    drop(shares);
    assert_eq!(free(), before);
}
