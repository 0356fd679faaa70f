//! Other loaders of the same weights, where they are installed.

mod llama_bench;
mod safetensors;

use super::document::{Peer, Spread, gb_per_s};
use crate::cli::args::Bench;
use cuda_sys::DeviceKind;
use std::process::{Command, Output};

/// What a peer did.
struct Measured {
    version: Option<String>,
    seconds: Vec<f64>,
    bytes: u64,
    /// What the seconds are of.
    note: &'static str,
}

/// Measures each; one that cannot be measured says why. `transfer` is the median of this loader's.
pub(super) fn measure(
    arguments: &Bench,
    device: DeviceKind,
    source_bytes: u64,
    transfer: f64,
) -> Vec<Peer> {
    [
        ("safetensors", safetensors::measure(arguments, device)),
        ("llama.cpp", llama_bench::measure(arguments, device, source_bytes)),
    ]
    .into_iter()
    .map(|(name, result)| describe(name, result, transfer))
    .collect()
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

/// What a program printed to standard output, or why it did not.
fn output_of(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.output().map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&stderr);
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{program} ended with {status}: {last}"))
}
