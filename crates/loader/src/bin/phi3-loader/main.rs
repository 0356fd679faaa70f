//! `phi3-loader`: see `phi3-loader --help`.

mod standard_output;

use loader::cli::Start;
use std::process::ExitCode;

fn main() -> ExitCode {
    loader::cli::main(Start { stdout_is_open: standard_output::was_open() })
}
