//! The failures of commands.

use super::color::Palette;
use super::thread_limits;
use gguf_format::path_text;
use loader::{Error, FailureCode, codes, host_memory};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

/// The reason why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// An error of the library.
    Load(Error),
    /// The command line is wrong.
    Usage(clap::Error),
    /// Standard error is a file that the command reads. Only the exit code reports it: a message would be
    /// written into that file.
    StandardErrorIsRead,
    /// Standard output cannot be written to.
    Output(std::io::Error),
    /// A file that a measurement needs cannot be read.
    Read(PathBuf, std::io::Error),
    /// A thread or process cannot be started.
    Start(&'static str, std::io::Error),
    /// No entry of a keeper has this key, or several have keys that start with it. The message says which.
    UnknownKey(String),
    /// The command has printed its errors. It exits with this code.
    Printed(u8),
    /// A child process of this program failed and reported why.
    Process(ProcessFailure),
}

/// The failure that a child process of this program reported.
#[derive(Debug)]
pub(super) struct ProcessFailure {
    /// The same code as of an [`Error`].
    pub(super) code: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) exit_code: u8,
}

/// The exit code of a usage error.
const USAGE: u8 = 2;

impl Failure {
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Load(error) if error.code() == codes::CANCELLED.code)
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Load(error) => error.exit_code(),
            Self::Usage(_) | Self::StandardErrorIsRead => USAGE,
            Self::Output(_) => codes::WRITE_FAILED.exit_code,
            Self::Read(..) => codes::READ_FAILED.exit_code,
            Self::Start(_, error) => start_facts(error).exit_code,
            Self::UnknownKey(_) => codes::RESIDENT_UNKNOWN.exit_code,
            Self::Printed(exit_code) => *exit_code,
            Self::Process(failure) => failure.exit_code,
        }
    }

    /// Prints the error and the advice to the user to standard error. If standard error cannot be written to,
    /// only the exit code reports the failure.
    pub(super) fn print(&self) {
        let (code, message, help) = match self {
            Self::Usage(error) => {
                let _ = error.print();
                return;
            }
            Self::StandardErrorIsRead | Self::Printed(_) => return,
            Self::Load(error) => (error.code(), error.to_string(), error.help()),
            Self::Output(error) => {
                let FailureCode { code, cure, .. } = codes::WRITE_FAILED;
                (code, format!("standard output: {error}"), Some(cure))
            }
            Self::Read(path, error) => {
                let FailureCode { code, cure, .. } = codes::READ_FAILED;
                (code, format!("{}: {error}", path_text(path)), Some(cure))
            }
            Self::Start(what, error) => {
                let FailureCode { code, cure, .. } = start_facts(error);
                let limits = start_limits(error);
                (code, format!("{what} cannot be started: {error}{limits}"), Some(cure))
            }
            Self::UnknownKey(message) => {
                let FailureCode { code, cure, .. } = codes::RESIDENT_UNKNOWN;
                (code, message.clone(), Some(cure))
            }
            Self::Process(failure) => {
                (failure.code.as_str(), failure.message.clone(), failure.help.as_deref())
            }
        };
        let Palette { error, help: tint, .. } = Palette::stderr();
        let mut out = std::io::stderr().lock();
        let _ = writeln!(out, "{error}error[{code}]{error:#}: {message}");
        if let Some(help) = help {
            let _ = writeln!(out, "{tint}help{tint:#}: {help}");
        }
    }
}

/// Returns the facts about a failed start of a thread or process. `EAGAIN` and `ENOMEM` mean that the system
/// has no memory or reached a limit of threads or processes. Other errors are about the program file.
fn start_facts(error: &std::io::Error) -> FailureCode {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::OutOfMemory => codes::INSUFFICIENT_HOST_MEMORY,
        _ => codes::READ_FAILED,
    }
}

/// Returns the limits that may be the cause of a failed start, for its message. `EAGAIN` has two possible
/// causes: a limit of threads or processes, or no memory for the stack of a thread.
fn start_limits(error: &std::io::Error) -> String {
    let (memory, count) = match error.kind() {
        ErrorKind::OutOfMemory => (host_memory::figures(), None),
        ErrorKind::WouldBlock => (host_memory::figures(), thread_limits::text()),
        _ => (None, None),
    };
    memory.into_iter().chain(count).map(|limit| format!("; {limit}")).collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Load(error)
    }
}

impl From<keeper::Error> for Failure {
    fn from(error: keeper::Error) -> Self {
        Self::Load(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}
