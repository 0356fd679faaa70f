//! `cargo xtask fuzz`: gives mutated files to the parser, with a stable toolchain.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// Runs the driver for this time. Fails if a file breaks one of the promises in docs/fuzzing.md.
pub(crate) fn run(seconds: u64) -> Result<()> {
    let driver =
        ["run", "--profile", "fuzz", "--locked", "-p", "gguf-format", "--example", "fuzz", "--"];
    process::run(cargo(driver).arg(seconds.to_string()))
}
