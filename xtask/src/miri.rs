//! `cargo xtask miri`: the crates without foreign code under Rust's interpreter, which finds undefined
//! behaviour.

use anyhow::{Result, ensure};

use crate::process;
use crate::workspace::cargo;

/// Tests that map no file, which Miri cannot do, and make no thousands of files, which would take it
/// hours.
const SELECTION: [&str; 13] = [
    "miri",
    "test",
    "--locked",
    "--package",
    "gguf-format",
    "--package",
    "model-phi3",
    "--test",
    "hostile",
    "--test",
    "metadata",
    "--test",
    "suite",
];

/// Runs tests of parser and model, where the toolchain has Miri.
pub(crate) fn run() -> Result<()> {
    ensure!(
        process::output(&mut cargo(["miri", "--version"])).is_ok(),
        "this toolchain has no Miri: `rustup +nightly component add miri`, then \
         `cargo +nightly xtask miri`"
    );
    // Tests read files.
    process::run(cargo(SELECTION).env("MIRIFLAGS", "-Zmiri-disable-isolation"))
}
