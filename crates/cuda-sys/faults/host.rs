//! The fault matrix on the host device: every system call and allocation of a load fails.
//! `docs/fault-testing.md` says how it works.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod c_library;
#[allow(dead_code, reason = "the CUDA device has more to lose")]
mod calls;
#[allow(dead_code, reason = "the CUDA device can do without pinned memory")]
mod matrix;
mod scenario;

use cuda_sys::DeviceKind;

#[test]
fn every_call_fails_once_and_nothing_is_left_of_it() {
    matrix::run(&[DeviceKind::Host], &c_library::rows(), &[], || ());
}

#[test]
fn every_call_fails_once_with_two_lanes() {
    matrix::run(&[DeviceKind::Host; 2], &c_library::rows(), &[], || ());
}
