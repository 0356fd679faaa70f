//! The fault matrix on the host device: every system call and allocation of a load fails in turn.
//! `docs/fault-testing.md` describes the method.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "only the GPU's matrix uses the rest")]
mod c_library;
#[allow(dead_code, reason = "only the GPU's matrix uses the rest")]
mod calls;
#[allow(dead_code, reason = "only the GPU's matrix uses the rest")]
mod matrix;
mod scenario;

use cuda_sys::DeviceKind;

#[test]
fn every_call_may_fail_without_leaks_or_wrong_bytes() {
    matrix::run(&[DeviceKind::Host], &c_library::rows(), &[], || ());
}

#[test]
fn every_call_may_fail_with_two_lanes() {
    matrix::run(&[DeviceKind::Host; 2], &c_library::rows(), &[], || ());
}
