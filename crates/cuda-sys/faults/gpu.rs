//! The fault matrix on the first GPU. In addition to system calls and allocations, every call of the CUDA
//! runtime fails, alone and with all later calls, as on a lost device. `docs/fault-testing.md` describes
//! the method. Fails if there is no GPU.
//!
//! This is an example for cargo, because only an example can have its own linker arguments: build scripts
//! pass the same arguments to all tests of a package. `cargo xtask test-gpu` runs it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod c_library;
mod calls;
mod cuda_driver;
mod cuda_runtime;
mod matrix;
mod scenario;

use cuda_sys::{Device, DeviceKind, cuda_devices};

const GPU: DeviceKind = DeviceKind::Cuda(0);

fn run() {
    // With two lanes, the device of the first lane fails.
    run_on(&[GPU], &[]);
    run_on(&[GPU, DeviceKind::Host], &[]);
    run_on(&[GPU, GPU], &cuda_runtime::BETWEEN_LANES);
    if cuda_devices().unwrap().len() > 1 {
        run_on(&[GPU, DeviceKind::Cuda(1)], &cuda_runtime::BETWEEN_GPUS);
    }
}

fn run_on(lanes: &[DeviceKind], between: &[&'static str]) {
    let has_host = lanes.contains(&DeviceKind::Host);
    let of_library = c_library::rows().into_iter();
    let of_library =
        of_library.filter(|row| has_host || !c_library::OF_HOST_MEMORY.contains(&row.call));
    let rows = cuda_runtime::rows(between).into_iter().chain(of_library);
    let free = |kind: &DeviceKind| Device::open(*kind).unwrap().memory().unwrap().unwrap().free;
    let gpus = || lanes.iter().filter(|kind| **kind != DeviceKind::Host);
    let free_memory = || gpus().map(free).collect::<Vec<_>>();
    matrix::run(lanes, &rows.collect::<Vec<_>>(), &cuda_runtime::WITHOUT_ROW, free_memory);
}

#[test]
fn every_call_may_fail_without_leaks_or_wrong_bytes() {
    run();
}

#[cfg(not(test))]
fn main() {
    run();
}
