//! `phi3-loader`: see `phi3-loader --help`.

mod allocator;
mod standard_output;

use phi3_loader::Start;
use std::alloc::System;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::OrExit<System> = allocator::OrExit(System);

fn main() -> ExitCode {
    allocator::share_between_threads();
    phi3_loader::main(Start { stdout_is_open: standard_output::was_open() })
}
