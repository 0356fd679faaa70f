//! safetensors through PyTorch.

use super::{Measured, output_of};
use crate::cli::args::Bench;
use crate::cli::bench::reading::Unread;
use crate::cli::bench::{load_command, page_cache};
use cuda_sys::DeviceKind;
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = include_str!("safetensors.py");

const NOTE: &str = "load_file to the device, warm, in one process after its first load";

pub(super) fn measure(arguments: &Bench, device: DeviceKind) -> Result<Measured, String> {
    let DeviceKind::Cuda(ordinal) = device else {
        return Err("it maps the file where the device is the host".to_owned());
    };
    // Before gigabytes are written for it.
    let found = run_script(&arguments.python, &[])?;
    if found["cuda"] != true {
        return Err("its PyTorch has no CUDA device".to_owned());
    }
    let weights = match &arguments.safetensors {
        Some(path) => Weights { path: path.clone(), ours: false },
        None => Weights::dump(arguments)?,
    };
    let failed = |error: std::io::Error| format!("{}: {error}", weights.path.display());
    page_cache::fill(std::slice::from_ref(&weights.path)).map_err(|error| match error {
        Unread::Threads(error) | Unread::File(error) => failed(error),
        Unread::Memory(error) => error.to_string(),
    })?;
    let bytes = std::fs::metadata(&weights.path).map_err(failed)?.len();
    let (path, runs) = (weights.path.display().to_string(), arguments.repeat.to_string());
    let answer = run_script(&arguments.python, &[&path, &format!("cuda:{ordinal}"), &runs])?;
    let seconds = answer["seconds"].as_array().ok_or("it told no times")?;
    Ok(Measured {
        version: answer["version"].as_str().map(str::to_owned),
        seconds: seconds.iter().filter_map(Value::as_f64).collect(),
        bytes,
        note: NOTE,
    })
}

fn run_script(python: &Path, arguments: &[&str]) -> Result<Value, String> {
    let printed = output_of(Command::new(python).arg("-c").arg(SCRIPT).args(arguments))?;
    // Libraries may print before it.
    let line = printed.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))
}

/// A safetensors file; removed on drop where it was written for this run.
struct Weights {
    path: PathBuf,
    ours: bool,
}

impl Weights {
    /// Writes what a load of the file gives, beside it, since it takes as much room.
    fn dump(arguments: &Bench) -> Result<Self, String> {
        let mut path = arguments.file.clone().into_os_string();
        path.push(format!(".{}.safetensors", std::process::id()));
        let weights = Self { path: path.into(), ours: true };
        let mut dump = OsString::from("--dump=");
        dump.push(&weights.path);
        let options = ["--quiet", "--device=host", "--storage=f16"].map(OsString::from);
        let load = load_command(&arguments.file, options.into_iter().chain([dump]));
        output_of(&mut load.map_err(|error| error.to_string())?)?;
        Ok(weights)
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        if self.ours {
            // There may be none, where writing it failed; else it stays, and its name says whose it is.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
