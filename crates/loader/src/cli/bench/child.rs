//! Programs that a run starts, and that end with it.

use crate::cancel::CancelToken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::File;
use std::io::{ErrorKind, Read, Result};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How late a cancellation is noticed.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Between looks whether a program has ended.
const POLL: Duration = Duration::from_millis(1);

/// How long a program may take to end that is asked to.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// Runs a program to its end and hands on every line that it prints to a stream that is piped. Returns
/// `None` where the token is cancelled first: then the program, and all that it has started, was asked
/// to end, and has ended.
pub(super) fn run(
    command: &mut Command,
    token: &CancelToken,
    line: &mut dyn FnMut(Stream, &str),
) -> Result<Option<ExitStatus>> {
    // A group of its own: a signal reaches also what the program starts, and each of them once.
    let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    let mut group = Group { child, ended: false };
    let out = group.child.stdout.take().map(OwnedFd::from);
    let err = group.child.stderr.take().map(OwnedFd::from);
    let pipes = [(Stream::Out, out), (Stream::Err, err)].into_iter();
    let mut pipes: Vec<_> =
        pipes.filter_map(|(stream, pipe)| Some(Pipe::new(stream, pipe?))).collect();
    while !pipes.is_empty() {
        if token.is_cancelled() {
            return Ok(None);
        }
        let mut polled: Vec<_> =
            pipes.iter().map(|pipe| PollFd::new(&pipe.file, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let mut failed = Ok(());
        pipes.retain_mut(|pipe| {
            if ready.next() != Some(true) {
                return true;
            }
            pipe.read(line).unwrap_or_else(|error| {
                failed = Err(error);
                false
            })
        });
        failed?;
    }
    group.wait(token)
}

/// What a program prints.
struct Pipe {
    stream: Stream,
    file: File,
    /// The start of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Pipe {
    fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Self { stream, file: File::from(pipe), rest: Vec::new() }
    }

    /// Reads what is there; false at the end.
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

/// A program with all that it has started. Dropping it ends them.
struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    fn wait(&mut self, token: &CancelToken) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(Some(status));
            }
            if token.is_cancelled() {
                return Ok(None);
            }
            // It has closed its streams, and most often ends at once.
            std::thread::sleep(POLL);
        }
    }

    /// Asks all to end, and then makes them.
    fn end(&self) -> Option<()> {
        let leader = Pid::from_raw(i32::try_from(self.child.id()).ok()?)?;
        let signal = |signal| kill_process_group(leader, signal).ok();
        signal(Signal::TERM)?;
        let asked = Instant::now();
        // Its number must stay its own until the last signal: it is looked at, and not waited for.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(leader), look).ok()?.is_none() && asked.elapsed() < GRACE {
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
        // Where this fails, all have ended.
        self.end();
        let _ = self.child.wait();
    }
}
