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
const ENGINE: [&str; 4] = ["--package", "cuda-sys", "--test", "host"];

/// The fault matrix stands in front of the C library, and so of ThreadSanitizer, which cannot bear
/// it.
const FAULTS: [&str; 2] = ["--test", "host_faults"];

/// Whole loads on top of it, by the library and by the program.
const LOADER: [&str; 9] = [
    "--package",
    "loader",
    "--package",
    "phi3-loader",
    "--lib",
    "--test",
    "host",
    "--test",
    "program",
];

/// Tests that ThreadSanitizer cannot run: those of times, which are those of a program at its usual
/// speed; of a signal during a system call, which it puts off until the call returns; and of files that
/// may not grow, because it writes a file itself when it starts.
const NOT_UNDER_THREAD: [&str; 5] = [
    "--",
    "--skip=within_100_ms",
    "--skip=no_mixture",
    "--skip=second_signal",
    "--skip=may_not_grow",
];

/// Runs the host tests of engine and loader; a finding ends them.
pub(crate) fn run(sanitizer: Sanitizer) -> Result<()> {
    match sanitizer {
        Sanitizer::Address => {
            engine()?;
            process::run(tests(sanitizer).args(LOADER))
        }
        Sanitizer::Thread => {
            process::run(tests(sanitizer).args(ENGINE))?;
            process::run(tests(sanitizer).args(LOADER).args(NOT_UNDER_THREAD))
        }
    }
}

/// Looks for memory errors, leaks and undefined behaviour in the engine's own tests.
pub(crate) fn engine() -> Result<()> {
    process::run(tests(Sanitizer::Address).args(ENGINE).args(FAULTS))
}

fn tests(sanitizer: Sanitizer) -> Command {
    // The runtimes as libraries, because rustc keeps the C compiler from adding its own; first, as
    // they have to be, because rustc puts these before those of dependencies.
    let (name, flags, runtimes) = match sanitizer {
        Sanitizer::Address => ("address", "-fsanitize=address,undefined", "-lasan -lubsan"),
        Sanitizer::Thread => ("thread", "-fsanitize=thread", "-ltsan"),
    };
    let mut command = cargo(["test", "--locked"]);
    command
        // A named target keeps the flags from build scripts and macros, which the compiler loads.
        .arg(format!("--target={ARCH}-unknown-linux-gnu"))
        .arg("--target-dir")
        .arg(workspace::target().join("sanitize").join(name))
        .env("CXXFLAGS", format!("{flags} -fno-sanitize-recover=all -fno-omit-frame-pointer -g"))
        .env("RUSTFLAGS", runtimes)
        // Rust is not what is looked at, and building it is most of the time.
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env("ASAN_OPTIONS", "detect_stack_use_after_return=1:strict_init_order=1")
        .env("UBSAN_OPTIONS", "print_stacktrace=1")
        // Rust's standard library is not instrumented: its locks order nothing that the sanitizer sees,
        // and of its accesses only those that the C library makes for it would count.
        .env("TSAN_OPTIONS", "halt_on_error=1:ignore_interceptors_accesses=1");
    command
}
