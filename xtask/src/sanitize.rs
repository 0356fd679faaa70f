//! `cargo xtask sanitize`: the host engine's C++ under a compiler's sanitizers.
//!
//! Works with a stable toolchain: only the C++ is instrumented, and the linker brings the runtime.

use std::env::consts::ARCH;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::process;
use crate::workspace::{self, cargo};

/// What to look for.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Sanitizer {
    /// Memory errors, leaks and undefined behaviour
    Address,
    /// Data races
    Thread,
}

/// Tests of the engine itself: most of what there is to find, for the least building.
const ENGINE: &[&str] = &["--package", "cuda-sys", "--test", "host", "--test", "host_faults"];

/// Whole loads on top of it.
const LOADER: &[&str] = &["--package", "loader", "--lib", "--test", "host"];

/// Runs the host tests of engine and loader; a finding ends them.
pub(crate) fn run(sanitizer: Sanitizer) -> Result<()> {
    process::run(&mut tests(sanitizer, ENGINE))?;
    process::run(&mut tests(sanitizer, LOADER))
}

/// Runs the engine's tests alone.
pub(crate) fn engine() -> Result<()> {
    process::run(&mut tests(Sanitizer::Address, ENGINE))
}

fn tests(sanitizer: Sanitizer, selection: &[&str]) -> Command {
    // The runtimes as libraries, because rustc keeps the C compiler from adding its own; first, as
    // they have to be, because rustc puts these before those of dependencies.
    let (name, flags, runtimes) = match sanitizer {
        Sanitizer::Address => ("address", "-fsanitize=address,undefined", "-lasan -lubsan"),
        Sanitizer::Thread => ("thread", "-fsanitize=thread", "-ltsan"),
    };
    let mut command = cargo(["test", "--locked"]);
    command
        .args(selection)
        // A named target keeps the flags from build scripts and macros, which the compiler loads.
        .arg(format!("--target={ARCH}-unknown-linux-gnu"))
        .arg("--target-dir")
        .arg(workspace::target().join("sanitize").join(name))
        .env("CXXFLAGS", format!("{flags} -fno-sanitize-recover=all -fno-omit-frame-pointer -g"))
        .env("RUSTFLAGS", runtimes)
        .env("ASAN_OPTIONS", "detect_stack_use_after_return=1:strict_init_order=1")
        .env("UBSAN_OPTIONS", "print_stacktrace=1")
        .env("TSAN_OPTIONS", "halt_on_error=1");
    command
}
