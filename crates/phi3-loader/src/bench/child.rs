//! Runs child processes, and ends them if the run is cancelled.

use loader::CancelToken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::File;
use std::io::{ErrorKind, Read, Result};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest time between two checks of the token.
const TOKEN_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The time between two checks whether a process has ended.
const POLL: Duration = Duration::from_millis(1);

/// The time that a process has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// Starts a process in its own process group. A signal to the group then also reaches the processes that
/// it starts, and reaches each process only once.
pub(super) fn start(command: &mut Command) -> Result<Group> {
    let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    Ok(Group { child, ended: false })
}

/// An output stream of a process.
struct Pipe {
    stream: Stream,
    file: File,
    /// The start of an incomplete line.
    rest: Vec<u8>,
}

impl Pipe {
    fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Self { stream, file: File::from(pipe), rest: Vec::new() }
    }

    /// Reads the available bytes. Returns false at the end of the stream.
    fn read(&mut self, line: &mut dyn FnMut(Stream, &str)) -> Result<bool> {
        let mut bytes = [0; 8192];
        let count = match self.file.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.rest.extend_from_slice(&bytes[..count]);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let whole: Vec<_> = self.rest.drain(..=end).collect();
            line(self.stream, &String::from_utf8_lossy(&whole[..end]));
        }
        if count == 0 && !self.rest.is_empty() {
            line(self.stream, &String::from_utf8_lossy(&self.rest));
        }
        Ok(count != 0)
    }
}

/// Waits up to [`TOKEN_INTERVAL`] until a pipe has data, and reads it. Removes the pipes that have reached
/// their end.
fn read_available(pipes: &mut Vec<Pipe>, line: &mut dyn FnMut(Stream, &str)) -> Result<()> {
    let mut polled: Vec<_> =
        pipes.iter().map(|pipe| PollFd::new(&pipe.file, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&TOKEN_INTERVAL)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<_> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
    let mut open = Vec::new();
    for (mut pipe, ready) in std::mem::take(pipes).into_iter().zip(ready) {
        if !ready || pipe.read(line)? {
            open.push(pipe);
        }
    }
    *pipes = open;
    Ok(())
}

/// A process and all processes that it has started. Dropping it ends all of them.
pub(super) struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    /// Waits until the process ends, and passes on every line that it prints to a piped stream. Returns
    /// `None` if the token is cancelled first.
    pub(super) fn run(
        mut self,
        token: &CancelToken,
        line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Option<ExitStatus>> {
        let out = self.child.stdout.take().map(OwnedFd::from);
        let err = self.child.stderr.take().map(OwnedFd::from);
        let mut pipes: Vec<_> = [(Stream::Out, out), (Stream::Err, err)]
            .into_iter()
            .filter_map(|(stream, pipe)| Some(Pipe::new(stream, pipe?)))
            .collect();
        while !pipes.is_empty() {
            if token.is_cancelled() {
                return Ok(None);
            }
            read_available(&mut pipes, line)?;
        }
        self.wait(token)
    }

    fn wait(&mut self, token: &CancelToken) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(Some(status));
            }
            if token.is_cancelled() {
                return Ok(None);
            }
            // The process has closed its streams and usually ends immediately.
            std::thread::sleep(POLL);
        }
    }

    /// Sends SIGTERM to all processes, waits up to [`GRACE`], and sends SIGKILL.
    fn end(&self) -> Option<()> {
        let leader = Pid::from_raw(i32::try_from(self.child.id()).ok()?)?;
        let signal = |signal| kill_process_group(leader, signal).ok();
        signal(Signal::TERM)?;
        let asked = Instant::now();
        // Check the process without reaping it: its ID must not be reused before the last signal is sent.
        let check = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(leader), check).ok()?.is_none() && asked.elapsed() < GRACE {
            std::thread::sleep(POLL);
        }
        signal(Signal::KILL)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Ignore a failure: all processes have then ended already.
        self.end();
        let _ = self.child.wait();
    }
}
