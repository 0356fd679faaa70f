//! `cargo xtask ci`: all checks that a change must pass. The fastest ones come first.

mod clang_format;
mod conformance;
mod cuda_build;
mod deny;
mod examples;
mod features;
mod install;
mod readme;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::workspace::cargo;
use crate::{fuzz, limits, process, sanitize, standalone, workspace};

type Step = (&'static str, fn() -> Result<()>);

/// Duration of the fuzzing step in all, enough to find simple errors.
const FUZZ_SECONDS: u64 = 30;

const STEPS: [Step; 16] = [
    ("Rust formatting", || process::run(&mut cargo(["fmt", "--all", "--check"]))),
    ("C++ formatting", clang_format::check),
    ("dependencies, where cargo-deny is installed", deny::check),
    ("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        process::run(strict(&mut cargo(clippy)))
    }),
    ("tests, as the README runs them", || readme::run("test")),
    ("crates with no feature and with each", features::check),
    ("benches, once each", || {
        let bench = ["bench", "--workspace", "--locked", "--bench", "*", "--", "--test"];
        process::run(strict(&mut cargo(bench)))
    }),
    ("documentation", || {
        let mut doc = cargo(["doc", "--workspace", "--no-deps", "--locked"]);
        process::run(strict(doc.env("RUSTDOCFLAGS", "-D warnings")))
    }),
    ("crates alone: packages, and consumers outside the workspace", standalone::check),
    ("workspaces apart: libFuzzer's targets, and other parsers", || {
        let folders = ["crates/gguf-format/fuzz", "crates/keeper/fuzz", "benches/parsers"];
        folders.into_iter().try_for_each(check_apart)
    }),
    ("examples", examples::check),
    ("engine under AddressSanitizer and UndefinedBehaviorSanitizer", sanitize::engine),
    ("CUDA device: clippy, nvcc and link", cuda_build::check),
    ("fuzzing the parser and the decoder of manifests", || fuzz::run(FUZZ_SECONDS)),
    ("demo, as the README runs it", || readme::run("demo")),
    ("conformance to the reference", conformance::check),
];

/// Checks that take too long for every change.
const FULL_STEPS: [Step; 2] = [
    ("release archive and Debian package, installed", install::check),
    ("runs under limits, 3,000", limits::run),
];

/// Runs the steps and stops at the first failure. With `full`, it also runs the long steps.
pub(crate) fn run(full: bool) -> Result<()> {
    let more = if full { &FULL_STEPS[..] } else { &[] };
    let steps: Vec<_> = STEPS.iter().chain(more).collect();
    let mut times = Vec::new();
    let mut outcome = Ok(());
    for (name, step) in &steps {
        eprintln!("\n== {name}");
        let start = Instant::now();
        outcome = step().with_context(|| *name);
        times.push(start.elapsed());
        if outcome.is_err() {
            break;
        }
    }
    summarise(&steps, &times, outcome.is_ok());
    outcome
}

/// Checks a crate that is a workspace of its own.
fn check_apart(folder: &str) -> Result<()> {
    process::run(&mut apart(folder, &["check"]))
}

/// Returns a cargo command for a crate that is a workspace of its own.
fn apart(folder: &str, command: &[&str]) -> Command {
    let mut cargo = cargo(command);
    cargo.args(["--locked", "--manifest-path"]);
    cargo.arg(workspace::root().join(folder).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(workspace::target().join("apart"));
    cargo
}

/// Turns warnings of the C++ and CUDA compilers into errors. Every command that builds sets this, because
/// a change of the variable compiles the sources again.
fn strict(command: &mut Command) -> &mut Command {
    command.env("CUDA_SYS_WERROR", "1")
}

fn summarise(steps: &[&Step], times: &[Duration], passed: bool) {
    eprintln!();
    for (index, (name, _)) in steps.iter().enumerate() {
        let result = match times.get(index) {
            None => "not run".to_owned(),
            Some(_) if !passed && index + 1 == times.len() => "FAILED".to_owned(),
            Some(time) => format!("{:.0} s", time.as_secs_f64()),
        };
        eprintln!("{result:>8}  {name}");
    }
    let total: Duration = times.iter().sum();
    eprintln!("{:>6.0} s  in all", total.as_secs_f64());
}
