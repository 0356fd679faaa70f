//! The fault matrix on the first GPU. In addition to system calls and allocations, every call of the CUDA
//! runtime fails, alone and with all later calls, as on a lost device. `docs/fault-testing.md` describes
//! the method. Fails if there is no GPU.
//!
//! This is an example for cargo, because only an example can have its own linker arguments: build scripts
//! pass the same arguments to all tests of a package. `cargo xtask test-gpu` runs it.
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
    // With two lanes, the device of the first lane fails.
    for lanes in [&[GPU] as &[_], &[GPU, DeviceKind::Host]] {
        matrix::run(lanes, &rows, &cuda_runtime::WITHOUT_ROW, free_memory);
    }
}

#[test]
fn every_call_may_fail_without_leaks_or_wrong_bytes() {
    run();
}

#[cfg(not(test))]
fn main() {
    run();
}
