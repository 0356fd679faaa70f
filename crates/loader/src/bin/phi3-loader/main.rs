//! `phi3-loader`: see `phi3-loader --help`.

mod allocator;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Whole = allocator::Whole;

fn main() -> ExitCode {
    loader::cli::main()
}
