//! Checks the examples, which are workspaces of their own.

use std::process::Command;

use anyhow::Result;

use super::{apart, strict};
use crate::process;
use crate::toolkit::Cuda;

/// The examples that need no CUDA.
const WITHOUT_CUDA: [&str; 3] = ["worker", "dlpack", "candle"];

/// Runs clippy and the tests of each example that needs no CUDA.
pub(super) fn check() -> Result<()> {
    for name in WITHOUT_CUDA {
        process::run(strict(clippy(name).args(["--", "-D", "warnings"])))?;
        process::run(strict(&mut in_example(name, &["test"])))?;
    }
    Ok(())
}

/// Returns clippy for an example. The caller adds clippy's arguments.
fn clippy(name: &str) -> Command {
    in_example(name, &["clippy", "--all-targets"])
}

/// Runs clippy on the example that needs CUDA. Compiles the kernels for one architecture.
pub(super) fn check_cuda(cuda: &Cuda) -> Result<()> {
    let mut clippy = clippy("cudarc");
    cuda.apply(strict(clippy.env("CUDA_SYS_ARCHS", "90")));
    process::run(clippy.args(["--", "-D", "warnings"]))
}

fn in_example(name: &str, command: &[&str]) -> Command {
    apart(&format!("examples/{name}"), command)
}
