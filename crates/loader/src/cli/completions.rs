//! `completions`.

use super::args::{Arguments, Completions};
use super::failure::Failure;
use clap::CommandFactory;
use std::io::Write;

pub(super) fn run(arguments: &Completions) -> Result<(), Failure> {
    let mut command = Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "phi3-loader", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
