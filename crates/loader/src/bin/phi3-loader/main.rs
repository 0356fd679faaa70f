//! `phi3-loader`: see `phi3-loader --help`.

mod allocator;

use std::alloc::System;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::OrExit<System> = allocator::OrExit(System);

fn main() -> ExitCode {
    loader::cli::main()
}
