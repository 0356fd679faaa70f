//! `cargo xtask miri`: runs the crates without foreign code under Miri, which detects undefined
//! behaviour.

use anyhow::{Result, ensure};

use crate::process;
use crate::workspace::cargo;

/// Tests that Miri can run: they map no files, which Miri does not support, and do not create thousands
/// of files, which would take hours.
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

/// Runs the tests of parser and model, if the toolchain has Miri.
pub(crate) fn run() -> Result<()> {
    ensure!(
        process::output(&mut cargo(["miri", "--version"])).is_ok(),
        "this toolchain has no Miri: `rustup +nightly component add miri`, then \
         `cargo +nightly xtask miri`"
    );
    // The tests read files, so Miri's isolation is off.
    process::run(cargo(SELECTION).env("MIRIFLAGS", "-Zmiri-disable-isolation"))
}
