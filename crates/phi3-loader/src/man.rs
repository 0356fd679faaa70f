//! The command `man`.

use super::args::{self, Arguments, Man};
use super::failure::Failure;
use super::stdout;
use clap::{Command, CommandFactory};
use clap_mangen::Man as Page;
use gguf_format::escape;
use loader::OutputFile;
use std::convert::Infallible;
use std::io::{self, IsTerminal, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;

pub(super) fn run(arguments: &Man) -> Result<(), Failure> {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    if let Some(folder) = &arguments.dir {
        // If this fails, so does writing the first page, whose error names the file.
        let _ = std::fs::create_dir_all(folder);
        return write_all(&program, folder);
    }
    let unknown = || {
        args::wrong_use(format!("there is no command `{}`", escape(&arguments.command.join(" "))))
    };
    let command = arguments
        .command
        .iter()
        .try_fold(&program, |command, name| command.find_subcommand(name))
        .ok_or_else(|| Failure::Usage(unknown()))?;
    let mut text = Vec::new();
    page(command).render(&mut text)?;
    if io::stdout().is_terminal() {
        let _ = show(&text);
    }
    Ok(stdout::print(|out| out.write_all(&text))?)
}

/// Becomes the program `man`, which shows the page. Returns if that fails.
fn show(page: &[u8]) -> io::Result<Infallible> {
    let mut file = tempfile::tempfile()?;
    file.write_all(page)?;
    file.rewind()?;
    Err(process::Command::new("man").args(["-l", "-"]).stdin(file).exec())
}

/// Writes the pages of the command and of all commands below it.
fn write_all(command: &Command, folder: &Path) -> Result<(), Failure> {
    let page = page(command);
    let file = OutputFile::find(&folder.join(page.get_filename()))?;
    let mut text = Vec::new();
    page.render(&mut text)?;
    file.write(text.len() as u64, |mut out| {
        out.write_all(&text).map_err(|error| file.failed(error))
    })?;
    command.get_subcommands().try_for_each(|command| write_all(command, folder))
}

fn page(command: &Command) -> Page {
    Page::new(command.clone())
        // An empty argument, quoted. Without the quotes, the next argument would be the date.
        .date("\"\"")
        .source(concat!("phi3-loader ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands")
}
