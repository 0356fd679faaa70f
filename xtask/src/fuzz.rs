//! `cargo xtask fuzz`: the parser against mutated files, on a stable toolchain.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// Runs the driver for that long. Fails where a file breaks a promise; docs/fuzzing.md says which.
pub(crate) fn run(seconds: u64) -> Result<()> {
    let driver =
        ["run", "--profile", "fuzz", "--locked", "-p", "gguf-format", "--example", "fuzz", "--"];
    process::run(cargo(driver).arg(seconds.to_string()))
}
