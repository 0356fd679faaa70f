//! Runs other programs. Prints the command line before the program runs, and includes it in the error if the
//! program fails.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs `command` until it ends. It inherits the streams of this program.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot run {}", words(command)))?;
    ensure!(status.success(), "{} failed ({status})", words(command));
    Ok(())
}

/// Like [`run`], and passes each line of standard output to `each` when it arrives.
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

/// Runs `command` without printing the command line, and returns its standard output.
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

/// Runs `command`, whose exit code must be `expected`.
pub(crate) fn expect_exit(command: &mut Command, expected: i32) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot run {}", words(command)))?;
    let code = status.code();
    ensure!(code == Some(expected), "{} ended with {status}, not {expected}", words(command));
    Ok(())
}

/// Sends the output of `command` to standard error, so that this program's standard output contains only
/// its result.
pub(crate) fn to_stderr(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::from(io::stderr()))
}

/// Returns whether a program is installed: whether it can say its version.
pub(crate) fn is_installed(program: &str) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn announce(command: &Command) {
    eprintln!("$ {}", words(command));
}

/// Formats the command line for messages: without the folder of the program, and with at most 24 arguments.
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
