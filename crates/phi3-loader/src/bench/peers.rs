//! Measures other loaders of the same weights, if they are installed.

mod llama_bench;
mod safetensors;

use super::child::{self, Stream};
use super::document::{Peer, Spread, gb_per_s};
use crate::args::{Bench, wrong_use};
use crate::failure::Failure;
use cuda_sys::DeviceKind;
use gguf_format::{escape, path_text};
use loader::{CancelToken, DeviceChoice, Error};
use rustix::fs::{Access, access};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// The result of a peer.
struct Measured {
    version: Option<String>,
    seconds: Vec<f64>,
    bytes: u64,
    /// The work that the seconds include.
    note: &'static str,
}

/// Fails if a program or file that the user names for the peers cannot be used. The peers are measured last, minutes
/// later.
pub(super) fn check(arguments: &Bench, token: &CancelToken) -> Result<(), Failure> {
    let Bench { python, llama_bench, safetensors, choices, .. } = arguments;
    let wrong = |message: String| Failure::Usage(wrong_use(message));
    for (option, program) in [("--python", python), ("--llama-bench", llama_bench)] {
        if let Some(program) = program.as_ref().filter(|program| !is_program(program)) {
            let program = path_text(program);
            return Err(wrong(format!("{option}: {program} is not a program that can be started")));
        }
    }
    if let Some(weights) = safetensors {
        let named = |error| wrong(format!("--safetensors: {}: {error}", path_text(weights)));
        File::open(weights).map_err(named)?;
    }
    let is_host = choices.device.single() == Some(DeviceChoice::Host);
    if let Some(python) = python.as_ref().filter(|_| !is_host) {
        let versions = safetensors::versions(python, token);
        token.check()?;
        versions.map_err(|why| wrong(format!("--python: {why}")))?;
    }
    Ok(())
}

/// Returns whether the system can start a program by this name. If the name has no slash, the system looks for it in
/// the folders of `PATH`.
fn is_program(name: &Path) -> bool {
    let folders = match name.as_os_str().as_bytes().contains(&b'/') {
        true => OsString::new(),
        false => std::env::var_os("PATH").unwrap_or_default(),
    };
    let is_executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    std::env::split_paths(&folders).any(|folder| is_executable(&folder.join(name)))
}

/// Measures each peer. If a peer cannot be measured, its result contains the reason. `transfer` is the median
/// transfer time of this loader, in seconds.
pub(super) fn measure(
    arguments: &Bench,
    device: DeviceKind,
    source_bytes: u64,
    transfer: f64,
    token: &CancelToken,
) -> Result<Vec<Peer>, Error> {
    let safetensors = safetensors::measure(arguments, device, token);
    token.check()?;
    let llama_cpp = llama_bench::measure(arguments, device, source_bytes, token);
    token.check()?;
    let measured = [("safetensors", safetensors), ("llama.cpp", llama_cpp)];
    Ok(measured.into_iter().map(|(name, result)| describe(name, result, transfer)).collect())
}

fn describe(name: &str, result: Result<Measured, String>, transfer: f64) -> Peer {
    let name = name.to_owned();
    match result {
        Ok(measured) => {
            let seconds = Spread::of(measured.seconds.iter().copied());
            let rates =
                measured.seconds.iter().map(|&seconds| gb_per_s(measured.bytes as f64, seconds));
            Peer {
                name,
                version: measured.version,
                seconds: Some(seconds),
                gb_per_s: Some(Spread::of(rates)),
                times_of_transfer: (transfer > 0.0).then(|| seconds.median / transfer),
                note: measured.note.to_owned(),
            }
        }
        Err(why) => Peer {
            name,
            version: None,
            seconds: None,
            gb_per_s: None,
            times_of_transfer: None,
            note: format!("skipped: {why}"),
        },
    }
}

/// Runs a program until it ends, and calls `line` for every line that it prints. Fails if the program fails.
fn run(
    command: &mut Command,
    token: &CancelToken,
    line: &mut dyn FnMut(Stream, &str),
) -> Result<(), String> {
    let program = path_text(command.get_program().as_ref()).to_string();
    let mut last = String::new();
    let child = child::start(command).map_err(|error| format!("{program}: {error}"))?;
    let ended = child.run(token, &mut |stream, text| {
        line(stream, text);
        if stream == Stream::Err && !text.trim().is_empty() {
            last = escape(text).to_string();
        }
    });
    match ended.map_err(|error| format!("{program}: {error}"))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{program} ended with {status}: {last}")),
        None => Err(Error::Cancelled.to_string()),
    }
}
