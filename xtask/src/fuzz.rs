//! `cargo xtask fuzz`: gives mutated files to the parser and mutated manifests to their decoder, with a stable
//! toolchain.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// The crates that have a driver.
const CRATES: [&str; 2] = ["gguf-format", "keeper"];

/// Runs the drivers for this time in all. Fails if an input breaks one of the promises in docs/fuzzing.md.
pub(crate) fn run(seconds: u64) -> Result<()> {
    CRATES.iter().try_for_each(|name| {
        let driver =
            ["run", "--profile", "fuzz", "--locked", "--example", "fuzz", "-p", name, "--"];
        process::run(cargo(driver).arg((seconds / CRATES.len() as u64).to_string()))
    })
}
