//! `cargo xtask`: builds, tests and measures this workspace. People and CI use the same commands.
//!
//! The commands set up the environment and call cargo. The build script of `cuda-sys` decides how kernels
//! are compiled, so a plain `cargo build` does the same.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod bench;
mod ci;
mod demo;
mod dist;
mod fuzz;
mod gpu_archive;
mod gpu_tests;
mod limits;
mod loader_binary;
mod miri;
mod nvidia;
mod process;
mod sanitize;
mod standalone;
mod test;
mod toolkit;
mod wheels;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Write a small Phi-3 model and load it on the best device of this machine
    Demo,
    /// Run all tests that need no GPU, including doc-tests
    Test {
        /// Arguments for `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the GPU tests; if there is no GPU, they fail and are not skipped
    TestGpu {
        /// Do not run the tests: pack them with their data and a runner into this folder, for a host that
        /// has a driver but no toolchain
        #[arg(long, value_name = "DIR", conflicts_with = "sanitize")]
        archive: Option<PathBuf>,
        /// Run the tests under this tool of compute-sanitizer: memcheck, racecheck, initcheck, synccheck
        #[arg(long, value_name = "TOOL")]
        sanitize: Option<String>,
    },
    /// Build the loader with the CUDA device
    BuildCuda {
        /// GPU architectures, like 80;90 [default: all since Turing that nvcc supports]
        #[arg(long, value_name = "LIST")]
        archs: Option<String>,
    },
    /// Write a release archive and a Debian package to target/dist/
    Dist {
        /// Build the program with the CUDA device
        #[arg(long)]
        cuda: bool,
    },
    /// Install a pinned nvcc from its wheels into target/
    Toolkit,
    /// Run the Criterion benchmarks of the workspace, or measure whole loads
    Bench {
        /// Measure loads with `phi3-loader bench` instead. The first argument can be a GGUF file.
        /// Otherwise synthetic Phi-3-mini-4k files, f16 and q4_k_m, are written to target/bench/ (10 GB)
        #[arg(long)]
        loader: bool,
        /// Arguments for `cargo bench` or `phi3-loader bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Give mutated files to the parser and mutated manifests to their decoder, each for half of the time
    Fuzz {
        #[arg(default_value_t = 60)]
        seconds: u64,
    },
    /// Run the host tests of engine and loader with the C++ compiled for a sanitizer
    Sanitize {
        /// The kind of errors to find
        #[arg(value_enum, default_value = "address")]
        sanitizer: sanitize::Sanitizer,
    },
    /// Run the tests of parser and model under Miri, if the toolchain has it
    Miri,
    /// Vendor the crates of this working tree into programs outside the workspace, build these offline, and
    /// check the contents of the packages
    Standalone,
    /// Run all checks that a change must pass
    Ci {
        /// Also run the checks that take too long for every change
        #[arg(long)]
        full: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Option<Command>) -> anyhow::Result<()> {
    match command {
        None => Ok(Arguments::command().print_help()?),
        Some(Command::Demo) => demo::run(),
        Some(Command::Test { arguments }) => test::run(&arguments),
        Some(Command::TestGpu { archive: Some(folder), .. }) => gpu_archive::pack(&folder),
        Some(Command::TestGpu { archive: None, sanitize }) => gpu_tests::run(sanitize.as_deref()),
        Some(Command::BuildCuda { archs }) => loader_binary::build_cuda(archs.as_deref()),
        Some(Command::Dist { cuda }) => dist::run(cuda),
        Some(Command::Toolkit) => toolkit::bring_and_print(),
        Some(Command::Bench { loader: false, arguments }) => bench::criterion(&arguments),
        Some(Command::Bench { loader: true, arguments }) => bench::loader(&arguments),
        Some(Command::Fuzz { seconds }) => fuzz::run(seconds),
        Some(Command::Sanitize { sanitizer }) => sanitize::run(sanitizer),
        Some(Command::Miri) => miri::run(),
        Some(Command::Standalone) => standalone::check(),
        Some(Command::Ci { full }) => ci::run(full),
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Command};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bench_passes_on_all_arguments_after_its_own_option() {
        for (line, of_loads, passed_on) in [
            (&["--loader"][..], true, &[][..]),
            (&["--loader", "--cold"], true, &["--cold"]),
            (&["--loader", "big.gguf", "--repeat", "3"], true, &["big.gguf", "--repeat", "3"]),
            (&["--save-baseline", "before"], false, &["--save-baseline", "before"]),
        ] {
            let line = [&["xtask", "bench"], line].concat();
            let Some(Command::Bench { loader, arguments }) = Arguments::parse_from(line).command
            else {
                panic!("`bench` is not the command")
            };
            assert_eq!(loader, of_loads);
            assert_eq!(arguments, passed_on);
        }
    }
}
