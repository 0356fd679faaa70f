//! Runs the program as a process.

use crate::environment::without_settings;
use serde_json::Value;
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// The path of the program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_phi3-loader");

/// Returns a command that runs the program without the user's settings.
pub(crate) fn program<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut program = Command::new(PROGRAM);
    without_settings(program.args(arguments));
    program
}

/// Returns a command that runs `prelude` in a shell and then the program, without the user's settings.
pub(crate) fn below_shell<S: AsRef<OsStr>>(
    prelude: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{prelude} && exec \"$0\" \"$@\""), PROGRAM]);
    without_settings(shell.args(arguments));
    shell
}

/// The result of a program that has ended.
pub(crate) struct Ran {
    pub(crate) output: Output,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        Self { output: command.output().unwrap() }
    }

    /// Runs a command with this standard output.
    pub(crate) fn with_stdout(command: &mut Command, stdout: impl Into<Stdio>) -> Self {
        Self::of(command.stdout(stdout).stderr(Stdio::piped()))
    }

    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.output.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> &str {
        std::str::from_utf8(&self.output.stderr).unwrap()
    }

    /// Returns the exit code. Checks that the program did not panic.
    pub(crate) fn code(&self) -> i32 {
        assert!(!self.stderr().contains("panicked"), "{}", self.stderr());
        self.output.status.code().expect("ended by a signal")
    }

    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(&mut program(arguments))
}
