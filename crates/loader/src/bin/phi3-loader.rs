//! `phi3-loader`: see `phi3-loader --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    loader::cli::main()
}
