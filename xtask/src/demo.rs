//! `cargo xtask demo`: writes a small model and loads it.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::{loader_binary, process, workspace};

/// Synthesises a model and loads it on the best device of this machine.
pub(crate) fn run() -> Result<()> {
    let loader = loader_binary::for_this_machine()?;
    let folder = workspace::target().join("demo");
    fs::create_dir_all(&folder)?;
    let model = folder.join("phi3-demo.gguf");
    process::run(
        Command::new(&loader)
            .arg("synth")
            .arg(&model)
            .args(["--preset", "tiny", "--type", "q4_k_m", "--force"]),
    )?;
    process::run(Command::new(&loader).arg("load").arg(&model).args(["--device", "auto"]))
}
