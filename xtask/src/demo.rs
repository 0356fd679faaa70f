//! `cargo xtask demo`: from nothing to weights in device memory.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::{loader_binary, nvidia, process, toolkit, workspace};

/// Synthesises a model and loads it on the best device of this machine.
pub(crate) fn run() -> Result<()> {
    let cuda = if nvidia::has_driver() {
        toolkit::find_or_bring()
            .inspect_err(|error| eprintln!("note: loading into host memory instead: {error:#}"))
            .ok()
    } else {
        eprintln!("note: there is no NVIDIA driver here, so the model goes into host memory");
        None
    };
    let loader = loader_binary::release(cuda.as_ref())?;

    let folder = workspace::target().join("demo");
    fs::create_dir_all(&folder)?;
    let model = folder.join("phi3-demo.gguf");
    process::run(
        Command::new(&loader)
            .arg("synth")
            .arg(&model)
            .args(["--preset", "tiny", "--type", "q4_k_m"]),
    )?;
    process::run(Command::new(&loader).arg("load").arg(&model).args(["--device", "auto"]))
}
