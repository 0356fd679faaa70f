//! `cargo xtask test-gpu`: runs the tests that need a GPU on this machine.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::loader_binary::{self, CUDA_FEATURES, CUDA_PACKAGES};
use crate::workspace::cargo;
use crate::{nvidia, process, toolkit};

/// Release builds with the CUDA device.
const RELEASE: [&str; 5] = ["test", "--release", "--locked", "--features", CUDA_FEATURES];

/// Test targets whose names start with `gpu`, and the fault matrix, which is an example for cargo.
const ALL: [&str; 4] = ["--test", "gpu*", "--example", "gpu*"];

/// The targets that run under a sanitizer. The runner of the archive (`gpu_archive/run.sh`) skips the same
/// other targets, and its comment gives the reasons.
const SANITIZED: [&str; 4] = ["--test", "gpu", "--test", "gpu_every"];

/// Returns the cargo arguments that select all GPU tests.
pub(crate) fn selection() -> Vec<&'static str> {
    [&RELEASE[..], &CUDA_PACKAGES, &ALL].concat()
}

/// Runs the tests. If a tool of compute-sanitizer is given, runs them under that tool. If there is no GPU, this
/// fails.
pub(crate) fn run(sanitizer: Option<&str>) -> Result<()> {
    ensure!(
        nvidia::has_driver(),
        "the GPU tests need an NVIDIA GPU, and this machine has no driver for one; \
         `cargo xtask test-gpu --archive DIR` packs them for a machine that has"
    );
    let cuda = toolkit::find_or_bring()?;
    let loader = loader_binary::release(Some(&cuda))?;
    let devices = process::output(Command::new(&loader).args(["devices", "--json"]))?;
    let gpus = count_gpus(&devices)?;
    ensure!(gpus > 0, "the GPU tests need an NVIDIA GPU, and the loader finds none:\n{devices}");
    eprintln!("{gpus} GPU(s) found");

    let targets = if sanitizer.is_some() { &SANITIZED[..] } else { &ALL };
    let mut test = cargo([&RELEASE[..], &CUDA_PACKAGES, targets].concat());
    // One test at a time: some tests check the GPU's free memory, which other tests would change.
    test.env("PHI3_LOADER_BIN", &loader).env("RUST_TEST_THREADS", "1");
    if let Some(tool) = sanitizer {
        let architecture = std::env::consts::ARCH.to_uppercase();
        test.env(
            format!("CARGO_TARGET_{architecture}_UNKNOWN_LINUX_GNU_RUNNER"),
            format!("compute-sanitizer --tool {tool} --report-api-errors no --error-exitcode 1"),
        );
    }
    process::run(cuda.apply(&mut test))
}

fn count_gpus(devices: &str) -> Result<usize> {
    let document: Value =
        serde_json::from_str(devices).context("`phi3-loader devices --json` printed no JSON")?;
    let list = document["devices"].as_array().context("the document lists no `devices`")?;
    Ok(list.iter().filter(|device| device["kind"] == "cuda").count())
}

#[cfg(test)]
mod tests {
    use super::{SANITIZED, count_gpus};
    use crate::workspace;
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn only_cuda_devices_count_as_gpus() {
        let host = r#"{"schema_version":1,"devices":[{"kind":"host"}]}"#;
        assert_eq!(count_gpus(host).unwrap(), 0);
        let both =
            r#"{"schema_version":1,"devices":[{"kind":"host"},{"kind":"cuda","ordinal":0}]}"#;
        assert_eq!(count_gpus(both).unwrap(), 1);
        assert!(count_gpus("{}").is_err());
    }

    #[test]
    fn all_gpu_tests_except_three_run_under_a_sanitizer() {
        let left_out = ["gpu_busy", "gpu_endurance", "gpu_resident"];
        let folders = ["crates/cuda-sys/tests", "crates/loader/tests"];
        let entries = folders.map(|folder| fs::read_dir(workspace::root().join(folder)).unwrap());
        let names = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let targets: BTreeSet<_> = names
            .filter_map(|name| Some(name.to_str()?.strip_suffix(".rs")?.to_owned()))
            .filter(|target| target.starts_with("gpu") && !left_out.contains(&target.as_str()))
            .collect();
        let sanitized = SANITIZED.iter().skip(1).step_by(2).map(|&target| target.to_owned());
        assert_eq!(sanitized.collect::<BTreeSet<_>>(), targets);
    }
}
