//! Measures the loader of safetensors with PyTorch.

use super::{Measured, Stream, run};
use crate::args::Bench;
use crate::bench::reading::Unread;
use crate::bench::{load_command, page_cache};
use cuda_sys::DeviceKind;
use gguf_format::{escape, path_text};
use loader::{CancelToken, Error};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SCRIPT: &str = include_str!("safetensors.py");

const NOTE: &str =
    "load_file of the same weights to the device; the first load of the process does not count.";

pub(super) fn measure(
    arguments: &Bench,
    device: DeviceKind,
    token: &CancelToken,
) -> Result<Measured, String> {
    let DeviceKind::Cuda(ordinal) = device else {
        return Err("on the host it only maps the file".to_owned());
    };
    let python = arguments.python.as_deref().unwrap_or(Path::new("python3"));
    // Check Python before gigabytes are written for it.
    let found = versions(python, token)?;
    if found["cuda"] != true {
        return Err("its PyTorch has no CUDA device".to_owned());
    }
    // Dropping this removes the folder and its content, also after an error.
    let folder;
    let weights = match &arguments.safetensors {
        Some(path) => path.clone(),
        None => {
            folder = beside(&arguments.file)?;
            dump(arguments, folder.path(), token)?
        }
    };
    let failed = |error: std::io::Error| format!("{}: {error}", path_text(&weights));
    page_cache::fill(std::slice::from_ref(&weights), token).map_err(|error| match error {
        Unread::Threads(error) | Unread::File(error) => failed(error),
        Unread::Cancelled => Error::Cancelled.to_string(),
        Unread::Memory(error) => error.to_string(),
    })?;
    let bytes = std::fs::metadata(&weights).map_err(failed)?.len();
    let (place, runs) = (format!("cuda:{ordinal}"), arguments.repeat.to_string());
    let script_arguments = [weights.as_os_str(), place.as_ref(), runs.as_ref()];
    let answer = run_script(python, &script_arguments, token)?;
    let seconds = answer["seconds"].as_array().ok_or("its script printed no times")?;
    Ok(Measured {
        version: answer["version"].as_str().map(str::to_owned),
        seconds: seconds.iter().filter_map(Value::as_f64).collect(),
        bytes,
        note: NOTE,
    })
}

/// Returns the versions of the modules that the script needs. Fails if one is missing.
pub(super) fn versions(python: &Path, token: &CancelToken) -> Result<Value, String> {
    run_script(python, &[], token)
}

fn run_script(python: &Path, arguments: &[&OsStr], token: &CancelToken) -> Result<Value, String> {
    let mut script = Command::new(python);
    script.arg("-c").arg(SCRIPT).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Libraries may print other lines before the result.
    let mut last = String::new();
    run(&mut script, token, &mut |stream, line| {
        if stream == Stream::Out {
            last = line.to_owned();
        }
    })?;
    serde_json::from_str(&last).map_err(|error| format!("{error}: {}", escape(&last)))
}

/// Creates a folder next to the model, whose disk has room for another large file.
fn beside(model: &Path) -> Result<TempDir, String> {
    let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".phi3-loader-bench-")
        .tempdir_in(folder)
        .map_err(|error| format!("{}: {error}", path_text(folder)))
}

/// Loads the file in a new process, and writes the weights to a safetensors file. Returns its path.
fn dump(arguments: &Bench, folder: &Path, token: &CancelToken) -> Result<PathBuf, String> {
    let weights = folder.join("weights.safetensors");
    let mut dump = OsString::from("--dump=");
    dump.push(&weights);
    let options = ["--quiet", "--device=host", "--storage=f16"].map(OsString::from);
    let options = options.into_iter().chain([dump]);
    let mut load = load_command(&arguments.file, options).map_err(|error| error.to_string())?;
    load.stdout(Stdio::null()).stderr(Stdio::piped());
    run(&mut load, token, &mut |_, _| ())?;
    Ok(weights)
}
