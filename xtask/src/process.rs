//! Running other programs: said before, and failed with the command line in the message.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs `command` to its end with this program's own streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot run {}", words(command)))?;
    ensure!(status.success(), "{} failed ({status})", words(command));
    Ok(())
}

/// Like [`run`], and hands each line of its standard output to `each` as it comes.
pub(crate) fn run_by_line(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", words(command)))?;
    let output = child.stdout.take().context("the child has no standard output")?;
    for line in BufReader::new(output).split(b'\n') {
        each(&String::from_utf8_lossy(&line?));
    }
    let status = child.wait()?;
    ensure!(status.success(), "{} failed ({status})", words(command));
    Ok(())
}

/// Runs `command` and says nothing; what it printed to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", words(command)))?;
    ensure!(
        output.status.success(),
        "{} failed ({})\n{}",
        words(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command`, which has to end with `expected`.
pub(crate) fn expect_exit(command: &mut Command, expected: i32) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot run {}", words(command)))?;
    let code = status.code();
    ensure!(code == Some(expected), "{} ended with {status}, not {expected}", words(command));
    Ok(())
}

/// Sends what `command` prints to standard error, where this program's own output is a result.
pub(crate) fn to_stderr(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::from(io::stderr()))
}

fn announce(command: &Command) {
    eprintln!("$ {}", words(command));
}

/// The command line for a reader: without the folder of the program, and not every file of a tree.
fn words(command: &Command) -> String {
    const SHOWN: usize = 24;
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy()];
    words.extend(command.get_args().take(SHOWN).map(OsStr::to_string_lossy));
    if let more @ 1.. = command.get_args().len().saturating_sub(SHOWN) {
        words.push(format!("… and {more} more").into());
    }
    words.join(" ")
}
