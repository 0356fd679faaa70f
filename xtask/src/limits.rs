//! Runs all commands of the program 3,000 times under limits of threads, addresses and memory.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// Runs these tests. They take minutes, so the usual test run skips them.
pub(crate) fn run() -> Result<()> {
    let tests = ["test", "--locked", "--package", "phi3-loader", "--test", "program", "--"];
    let all_of_limits = ["--ignored", "--nocapture", "limits::"];
    process::run(cargo(tests).args(all_of_limits))
}
