//! Builds the CUDA device, even on a machine without a GPU: everything except running a kernel.

use std::process::Command;

use anyhow::Result;

use super::strict;
use crate::loader_binary::{self, CUDA_FEATURES, CUDA_PACKAGES};
use crate::workspace::{self, cargo};
use crate::{nvidia, process, toolkit};

/// The loader's exit code if a device is not available.
const DEVICE_UNAVAILABLE: i32 = 5;

/// Compiles for every architecture with warnings as errors, links, and runs the program's list of
/// devices.
pub(super) fn check() -> Result<()> {
    let cuda = toolkit::find_or_bring()?;
    let cuda_cargo = |arguments: &[&str]| {
        let mut command = cargo(arguments);
        cuda.apply(strict(command.args(["--locked", "--features", CUDA_FEATURES])));
        command
    };
    // All three steps use one profile, so that the kernels are compiled only once.
    let clippy = [&["clippy", "--all-targets"], &CUDA_PACKAGES[..]].concat();
    process::run(cuda_cargo(&clippy).args(["--", "-D", "warnings"]))?;
    let tests = ["test", "--no-run", "--test", "gpu*", "--example", "gpu*"];
    let tests = [&tests[..], &CUDA_PACKAGES].concat();
    process::run(&mut cuda_cargo(&tests))?;
    // These tests bring drivers without GPUs.
    let driver = [&["test", "--test", "driver"], &CUDA_PACKAGES[..]].concat();
    process::run(&mut cuda_cargo(&driver))?;
    let build = [&["build", "--bin", "phi3-loader"], &CUDA_PACKAGES[..]].concat();
    let loader = loader_binary::executable(&mut cuda_cargo(&build))?;

    super::examples::check_cuda(&cuda)?;
    process::run(Command::new(&loader).arg("devices"))?;
    let model = workspace::target().join("cuda-build.gguf");
    process::run(
        Command::new(&loader).arg("synth").arg(&model).args(["--preset", "tiny", "--force"]),
    )?;
    let expected = if nvidia::has_driver() { 0 } else { DEVICE_UNAVAILABLE };
    let mut load = Command::new(&loader);
    process::expect_exit(load.arg("load").arg(&model).args(["--device", "cuda"]), expected)
}
