//! All commands of the program, 3,000 times under limits of threads, addresses and memory.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// As tests that the usual run leaves out, because they take minutes.
pub(crate) fn run() -> Result<()> {
    let host_tests = ["test", "--locked", "--package", "loader", "--test", "host", "--"];
    let all_of_limits = ["--ignored", "--nocapture", "limits::"];
    process::run(cargo(host_tests).args(all_of_limits))
}
