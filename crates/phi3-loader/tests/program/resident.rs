//! Tests of weights that outlive the process: `hold`, `resident` and `load --resident`. All weights are in host memory.

mod keeper_process;
mod listing;
mod loading;
mod unit;
mod wrong_weights;

use crate::common::model_path;
use crate::program::{Ran, program, run};
pub(crate) use keeper_process::KeeperProcess;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;

/// Returns the arguments of a load to host memory with resident weights.
fn load_arguments(file: &Path, socket: &Path, more: &[&str]) -> Vec<String> {
    let words = ["load", file.to_str().unwrap(), "--resident", socket.to_str().unwrap()];
    let words = words.into_iter().chain(more.iter().copied());
    let mut words: Vec<_> = words.map(str::to_owned).collect();
    if !words.iter().any(|word| word.starts_with("--device")) {
        words.push("--device=host".to_owned());
    }
    words
}

fn load(file: &Path, socket: &Path, more: &[&str]) -> Ran {
    run(load_arguments(file, socket, more))
}

/// Returns the last event of a load that succeeds.
#[track_caller]
pub(crate) fn finished(file: &Path, socket: &Path, more: &[&str]) -> Value {
    let ran = load(file, socket, &[more, &["--json"]].concat());
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let last = ran.json_lines().pop().unwrap();
    assert_eq!(last["event"], "finished");
    last
}

/// Checks that a load publishes its weights. Returns their key.
#[track_caller]
pub(crate) fn publishes(file: &Path, socket: &Path, more: &[&str]) -> String {
    let finished = finished(file, socket, more);
    assert_eq!(finished["resident"], "published", "{finished}");
    assert!(finished["source_bytes"].as_u64() > Some(0), "{finished}");
    finished["resident_key"].as_str().unwrap().to_owned()
}

/// Checks that a load attaches to weights. Returns their key.
#[track_caller]
fn attaches(file: &Path, socket: &Path, more: &[&str]) -> String {
    let finished = finished(file, socket, more);
    assert_eq!(finished["resident"], "attached", "{finished}");
    assert_eq!(finished["source_bytes"], 0, "{finished}");
    assert!(finished["transfer_seconds"].as_f64() > Some(0.0), "{finished}");
    finished["resident_key"].as_str().unwrap().to_owned()
}

/// Runs a command of `resident`.
pub(crate) fn resident<S: AsRef<OsStr>>(
    socket: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> Ran {
    Ran::of(program(["resident"]).args(arguments).arg("--socket").arg(socket))
}

pub(crate) fn small_model() -> std::path::PathBuf {
    model_path("fused-f16.gguf")
}

/// Writes a model with random weights.
fn synthetic(folder: &Path, seed: u64) -> std::path::PathBuf {
    let path = folder.join("synthetic.gguf");
    let ran = run(["synth", path.to_str().unwrap(), "--force", &format!("--seed={seed}")]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    path
}
