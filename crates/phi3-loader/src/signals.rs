//! Signals that ask the program to end.

use super::failure::Failure;
use loader::{Background, CancelToken, Error};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// What a shell reports of a program that a signal ended, beside the signal's number.
const ENDED_BY_SIGNAL: i32 = 128;

/// Larger than the number of any signal.
const SIGNALS: i64 = 128;

/// A signal that comes sooner after the first one repeats the same request: `timeout` signals the
/// program, and at once its process group as well.
const SAME_REQUEST_MILLISECONDS: i64 = 500;

/// The first SIGINT (Ctrl-C) or SIGTERM, which cancels what the program does.
#[derive(Debug)]
pub(super) struct Interrupt {
    token: CancelToken,
    first: Arc<FirstSignal>,
}

/// Number and time of the first signal.
#[derive(Debug, Default)]
struct FirstSignal {
    /// `milliseconds * 128 + number`, of the monotonic clock; 0 before the first signal.
    packed: AtomicI64,
}

impl FirstSignal {
    /// Takes note of a signal. Whether it ends the process at once: it is another request than the
    /// first one.
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
    /// Installs the handlers. A signal that comes 500 ms after the first one or later ends the process
    /// at once: it may be waiting for something that looks at no token, such as the reader of a pipe.
    ///
    /// SIGHUP keeps what the process was started with: who says `nohup` wants the load to go on.
    pub(super) fn install() -> Self {
        let interrupt = Self { token: CancelToken::new(), first: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // Without a handler the signal ends the process, which frees the memory as well.
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
        // SAFETY: the action reads a clock, changes two atomics and may end the process without exit
        // handlers. All of that is allowed in a signal handler; it allocates nothing, takes no lock and
        // cannot panic.
        unsafe { low_level::register(signal, action) }?;
        Ok(())
    }

    pub(super) fn token(&self) -> &CancelToken {
        &self.token
    }

    /// The exit code of a command that failed: after a cancellation, that of the signal.
    pub(super) fn exit_code(&self, failure: &Failure) -> u8 {
        let by_signal = self.first.number().filter(|_| failure.is_cancelled());
        by_signal
            .and_then(|signal| u8::try_from(ENDED_BY_SIGNAL + signal).ok())
            .unwrap_or_else(|| failure.exit_code())
    }

    /// Does work that looks at no token and leaves nothing behind, wherever it is stopped. The first
    /// signal ends it.
    pub(super) fn or_end(
        &self,
        work: impl Fn() -> Result<(), Failure> + Clone + Send + 'static,
    ) -> Result<(), Failure> {
        let mut background = Background::start(work);
        let result = background.wait(&self.token);
        if result.is_none() {
            // Its thread ends with the process; waiting for it could take for ever.
            std::mem::forget(background);
        }
        result.unwrap_or(Err(Error::Cancelled.into()))
    }
}

/// A write beyond the largest size of a file that the process may make (`ulimit -f`) fails like any
/// other, instead of ending the process.
pub(super) fn survive_size_limits() {
    // Nobody asks the flag: that there is a handler is enough.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_that_comes_later_ends_the_process_at_once() {
        for (after, ends) in [(0, false), (1, false), (499, false), (500, true), (60_000, true)] {
            let first = FirstSignal::default();
            assert_eq!(first.number(), None);
            assert!(!first.ends_at_once(SIGTERM, 7000));
            assert_eq!(first.ends_at_once(SIGINT, 7000 + after), ends, "{after}");
            assert_eq!(first.number(), Some(SIGTERM));
        }
    }
}
