//! Handles the signals that request the end of the program.

use super::failure::Failure;
use loader::{Background, CancelToken, Error};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};
use std::io::{PipeReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// A shell reports a program that a signal ended with this number plus the signal's number.
const ENDED_BY_SIGNAL: i32 = 128;

/// The numbers of signals are smaller than this.
const SIGNALS: i64 = 128;

/// A signal that arrives sooner than this after the first one counts as the same request. For example,
/// `timeout` signals the program and then immediately its process group.
const SAME_REQUEST_MILLISECONDS: i64 = 500;

/// The first SIGINT (Ctrl-C) or SIGTERM. It cancels the work of the program.
#[derive(Debug)]
pub(super) struct Interrupt {
    token: CancelToken,
    first: Arc<FirstSignal>,
}

/// Number and time of the first signal.
#[derive(Debug, Default)]
struct FirstSignal {
    /// Time (monotonic clock) and number of the signal, as `milliseconds * 128 + number`. 0 before the first
    /// signal.
    packed: AtomicI64,
}

impl FirstSignal {
    /// Records a signal. Returns whether it must end the process at once, because it is a second request.
    fn ends_at_once(&self, signal: i32, milliseconds: i64) -> bool {
        let packed = milliseconds * SIGNALS + i64::from(signal);
        let first = self.packed.compare_exchange(0, packed, Ordering::Relaxed, Ordering::Relaxed);
        first.is_err_and(|first| milliseconds - first / SIGNALS >= SAME_REQUEST_MILLISECONDS)
    }

    fn number(&self) -> Option<i32> {
        let number = self.packed.load(Ordering::Relaxed) % SIGNALS;
        i32::try_from(number).ok().filter(|&number| number != 0)
    }
}

impl Interrupt {
    /// Installs the handlers. A second signal that arrives 500 ms or more after the first one ends the process
    /// at once: the process may be in a call that checks no token, such as a write to a full pipe.
    ///
    /// The handling of SIGHUP is not changed, so that `nohup` works.
    pub(super) fn install() -> Self {
        let interrupt = Self { token: CancelToken::new(), first: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // If the handler cannot be installed, the signal ends the process, which also frees the memory.
            let _ = interrupt.handle(signal);
        }
        interrupt
    }

    fn handle(&self, signal: i32) -> std::io::Result<()> {
        let (token, first) = (self.token.clone(), Arc::clone(&self.first));
        let action = move || {
            let now = clock_gettime(ClockId::Monotonic);
            if first.ends_at_once(signal, now.tv_sec * 1000 + now.tv_nsec / 1_000_000) {
                low_level::exit(ENDED_BY_SIGNAL + signal);
            }
            token.cancel();
        };
        // SAFETY: the action reads a clock, changes two atomics, and may end the process without exit
        // handlers. A signal handler may do all of that. It allocates nothing, takes no lock and cannot
        // panic.
        unsafe { low_level::register(signal, action) }?;
        Ok(())
    }

    pub(super) fn token(&self) -> &CancelToken {
        &self.token
    }

    /// Returns a pipe that is readable from the first signal on.
    pub(super) fn pipe(&self) -> std::io::Result<PipeReader> {
        let (reader, mut writer) = std::io::pipe()?;
        for signal in [SIGINT, SIGTERM] {
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        // The signal may have arrived before the pipe was there.
        if self.token.is_cancelled() {
            writer.write_all(b"X")?;
        }
        Ok(reader)
    }

    /// Returns the exit code of a failed command. After a cancellation it is the code of the signal.
    pub(super) fn exit_code(&self, failure: &Failure) -> u8 {
        let by_signal = self.first.number().filter(|_| failure.is_cancelled());
        by_signal
            .and_then(|signal| u8::try_from(ENDED_BY_SIGNAL + signal).ok())
            .unwrap_or_else(|| failure.exit_code())
    }

    /// Runs work that checks no token. The first signal ends the wait for it, and the process then ends during
    /// the work. Hence the work must not need any cleanup.
    pub(super) fn or_end(
        &self,
        work: impl Fn() -> Result<(), Failure> + Clone + Send + 'static,
    ) -> Result<(), Failure> {
        let mut background = Background::start(work);
        let result = background.wait(&self.token);
        if result.is_none() {
            // Do not wait for the thread in `drop`, because the work may be blocked forever. The thread ends
            // with the process.
            std::mem::forget(background);
        }
        result.unwrap_or(Err(Error::Cancelled.into()))
    }
}

/// Makes a write that exceeds the file size limit of the process (`ulimit -f`) return an error. Without this,
/// SIGXFSZ would end the process.
pub(super) fn survive_size_limits() {
    // Any handler is enough, so the flag is never read.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_after_500_ms_ends_the_process_at_once() {
        for (after, ends) in [(0, false), (1, false), (499, false), (500, true), (60_000, true)] {
            let first = FirstSignal::default();
            assert_eq!(first.number(), None);
            assert!(!first.ends_at_once(SIGTERM, 7000));
            assert_eq!(first.ends_at_once(SIGINT, 7000 + after), ends, "{after}");
            assert_eq!(first.number(), Some(SIGTERM));
        }
    }
}
