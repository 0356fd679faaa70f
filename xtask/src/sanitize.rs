//! `cargo xtask sanitize`: runs the C++ of the host engine under a compiler's sanitizers.
//!
//! This works with a stable toolchain: only the C++ is instrumented, and the linker adds the runtime.

use std::env::consts::ARCH;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::process;
use crate::workspace::{self, cargo};

/// The kind of errors to find.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Sanitizer {
    /// Memory errors, leaks and undefined behaviour
    Address,
    /// Data races
    Thread,
}

/// Tests of the engine itself: they find most errors and need the shortest build.
const ENGINE: [&str; 4] = ["--package", "cuda-sys", "--test", "host"];

/// The fault matrix replaces functions of the C library. ThreadSanitizer also replaces them, so the two
/// do not work together.
const FAULTS: [&str; 2] = ["--test", "host_faults"];

/// Tests of whole loads, by the library and by the program.
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

/// Tests that ThreadSanitizer cannot run. Tests of times need a program at its usual speed. A signal
/// during a system call is delayed until the call returns. If files may not grow, the sanitizer fails,
/// because it writes a file when it starts.
const NOT_UNDER_THREAD: [&str; 5] = [
    "--",
    "--skip=within_100_ms",
    "--skip=no_mixture",
    "--skip=second_signal",
    "--skip=at_the_size_limit",
];

/// Runs the host tests of engine and loader. The first error that a sanitizer finds ends them.
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

/// Searches the engine's own tests for memory errors, leaks and undefined behaviour.
pub(crate) fn engine() -> Result<()> {
    process::run(tests(Sanitizer::Address).args(ENGINE).args(FAULTS))
}

fn tests(sanitizer: Sanitizer) -> Command {
    // Link the runtimes as libraries, because rustc prevents the C compiler from adding its own. They
    // must come first, and rustc puts these arguments in front of those of dependencies.
    let (name, flags, runtimes) = match sanitizer {
        Sanitizer::Address => ("address", "-fsanitize=address,undefined", "-lasan -lubsan"),
        Sanitizer::Thread => ("thread", "-fsanitize=thread", "-ltsan"),
    };
    let mut command = cargo(["test", "--locked"]);
    command
        // With an explicit target, the flags do not apply to build scripts and macros, which the compiler
        // loads.
        .arg(format!("--target={ARCH}-unknown-linux-gnu"))
        .arg("--target-dir")
        .arg(workspace::target().join("sanitize").join(name))
        .env("CXXFLAGS", format!("{flags} -fno-sanitize-recover=all -fno-omit-frame-pointer -g"))
        .env("RUSTFLAGS", runtimes)
        // Only the C++ is checked, and optimising Rust would take most of the time.
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env("ASAN_OPTIONS", "detect_stack_use_after_return=1:strict_init_order=1")
        .env("UBSAN_OPTIONS", "print_stacktrace=1")
        // Rust's standard library is not instrumented. The sanitizer does not see the ordering by its
        // locks, so accesses that the C library makes for it would be false reports.
        .env("TSAN_OPTIONS", "halt_on_error=1:ignore_interceptors_accesses=1");
    command
}
