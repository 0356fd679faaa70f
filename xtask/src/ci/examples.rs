//! Checks the examples, which are workspaces of their own.

use anyhow::Result;

use super::strict;
use crate::process;
use crate::workspace::{self, cargo};

/// The examples that need no CUDA.
const EXAMPLES: [&str; 3] = ["worker", "dlpack", "candle"];

/// Runs clippy and the tests of each example.
pub(super) fn check() -> Result<()> {
    for name in EXAMPLES {
        check_example(name, &["clippy", "--all-targets"], &["--", "-D", "warnings"])?;
        check_example(name, &["test"], &[])?;
    }
    Ok(())
}

fn check_example(name: &str, command: &[&str], rest: &[&str]) -> Result<()> {
    let manifest = workspace::root().join("examples").join(name).join("Cargo.toml");
    let mut cargo = cargo(command);
    cargo.arg("--locked").arg("--manifest-path").arg(manifest);
    cargo.arg("--target-dir").arg(workspace::target().join("examples")).args(rest);
    process::run(strict(&mut cargo))
}
