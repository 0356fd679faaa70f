//! The fault matrix on the first GPU: beside system calls and allocations, every call of the CUDA
//! runtime fails, alone and with the device lost from there on. `docs/fault-testing.md` says how it
//! works. Fails where there is no GPU.
//!
//! An example to cargo, since only so can its linker arguments be its own: build scripts give them
//! to all tests of a package alike. `cargo xtask test-gpu` runs it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod c_library;
mod calls;
mod cuda_runtime;
mod matrix;
mod scenario;

use cuda_sys::{Device, DeviceKind};

const GPU: DeviceKind = DeviceKind::Cuda(0);

fn run() {
    let rows: Vec<_> = cuda_runtime::rows().into_iter().chain(c_library::rows()).collect();
    let free_memory = || Device::open(GPU).unwrap().memory().unwrap().unwrap().free;
    // With the second lane, it is the device of the first that fails.
    for lanes in [&[GPU] as &[_], &[GPU, DeviceKind::Host]] {
        matrix::run(lanes, &rows, &cuda_runtime::WITHOUT_ROW, free_memory);
    }
}

#[test]
fn every_call_fails_once_and_nothing_is_left_of_it() {
    run();
}

#[cfg(not(test))]
fn main() {
    run();
}
