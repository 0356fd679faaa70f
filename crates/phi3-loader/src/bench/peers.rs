//! Measures other loaders of the same weights, if they are installed.

mod llama_bench;
mod safetensors;

use super::child::{self, Stream};
use super::document::{Peer, Spread, gb_per_s};
use crate::args::Bench;
use cuda_sys::DeviceKind;
use gguf_format::{escape, path_text};
use loader::{CancelToken, Error};
use std::process::Command;

/// The result of a peer.
struct Measured {
    version: Option<String>,
    seconds: Vec<f64>,
    bytes: u64,
    /// The work that the seconds include.
    note: &'static str,
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
