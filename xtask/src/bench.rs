//! `cargo xtask bench`: Criterion's benchmarks of the workspace, or whole loads.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workspace::{self, cargo};
use crate::{loader_binary, process};

/// The types of weights that are synthesised where no file is named.
const TYPES: [&str; 2] = ["f16", "q4_k_m"];

/// Bench targets alone: the harness of unit tests does not know Criterion's arguments.
pub(crate) fn criterion(arguments: &[String]) -> Result<()> {
    process::run(cargo(["bench", "--workspace", "--locked", "--bench", "*"]).args(arguments))
}

/// Runs `phi3-loader bench` on the file, or on synthetic ones, which stay for the next run. Charts
/// go to `target/bench/`.
pub(crate) fn loader(file: Option<&Path>, arguments: &[String]) -> Result<()> {
    let loader = loader_binary::for_this_machine()?;
    let folder = workspace::target().join("bench");
    fs::create_dir_all(&folder)?;
    let measure = |model: &Path| {
        let name = model.file_stem().unwrap_or(model.as_os_str());
        let chart = folder.join(name).with_extension("svg");
        let mut bench = Command::new(&loader);
        bench.arg("bench").arg(model).args(arguments);
        // Who names a chart gets it there.
        if !arguments.iter().any(|argument| argument.starts_with("--svg")) {
            bench.arg("--svg").arg(&chart);
        }
        process::run(&mut bench)
    };
    if let Some(file) = file {
        return measure(file);
    }
    for kind in TYPES {
        let model = folder.join(format!("phi-3-mini-4k-{kind}.gguf"));
        if !model.exists() {
            let mut synth = Command::new(&loader);
            synth.arg("synth").arg(&model).args(["--preset", "mini-4k", "--type", kind]);
            // Standard output is for results.
            process::run(process::to_stderr(&mut synth))?;
        }
        measure(&model)?;
    }
    Ok(())
}
