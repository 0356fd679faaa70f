//! The command `completions`.

use super::args::{Arguments, Completions};
use super::failure::Failure;
use super::stdout;
use clap::CommandFactory;

pub(super) fn run(arguments: &Completions) -> Result<(), Failure> {
    let mut command = Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "phi3-loader", &mut script);
    Ok(stdout::print(|out| out.write_all(&script))?)
}
