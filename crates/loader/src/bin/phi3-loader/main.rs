//! `phi3-loader`: see `phi3-loader --help`.

mod allocator;
mod standard_output;

use loader::cli::Start;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Whole = allocator::Whole;

fn main() -> ExitCode {
    loader::cli::main(Start { stdout_is_open: standard_output::was_open() })
}
