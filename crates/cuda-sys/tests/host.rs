//! The conformance suite on host memory.

mod conformance;

use conformance::conformance_suite;
use cuda_sys::{Device, DeviceKind, ErrorCode};

conformance_suite!(DeviceKind::Host);

#[test]
fn a_build_without_cuda_says_so() {
    if cuda_sys::cuda_compiled() {
        return;
    }
    let error = Device::open(DeviceKind::Cuda(0)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeviceUnavailable);
    assert!(error.context().contains("no CUDA"), "{error}");
    assert_eq!(cuda_sys::cuda_devices().unwrap(), []);
}
