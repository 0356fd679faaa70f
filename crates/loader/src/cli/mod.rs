//! The command line: argument parsing and printing around the library.

mod args;
mod bench;
mod completions;
mod devices;
mod dump;
mod failure;
mod inspect;
mod json;
mod load;
mod logging;
mod out_of_memory;
mod plan;
mod progress;
mod signals;
mod synth;
mod text;
mod timeline;

use args::{Arguments, Command};
use clap::Parser;
use failure::Failure;
use indicatif::MultiProgress;
use std::process::ExitCode;

pub use out_of_memory::out_of_memory;

/// Runs the command line of this process and returns its exit code.
///
/// Results go to standard output, everything else to standard error. Installs a `tracing` subscriber
/// and, for commands that can be cancelled, handlers of SIGINT and SIGTERM: this is a program, not a
/// library.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bars = MultiProgress::new();
    logging::init(arguments.verbose, arguments.quiet, &bars);
    let quiet = arguments.quiet;
    let result = match arguments.command {
        Command::Inspect(command) => inspect::run(&command),
        Command::Plan(command) => plan::run(&command),
        Command::Load(command) => load::run(&command, quiet, &bars),
        Command::Bench(command) => bench::run(&command),
        Command::Devices(command) => devices::run(&command),
        Command::Synth(command) => synth::run(&command, quiet, &bars),
        Command::Completions(command) => completions::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit_code())
        }
    }
}
