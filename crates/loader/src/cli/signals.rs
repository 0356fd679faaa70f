//! Signals that ask the program to end.

use super::failure::Failure;
use crate::background::Background;
use crate::cancel::CancelToken;
use crate::error::Error;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a shell reports of a program that a signal ended, beside the signal's number.
const ENDED_BY_SIGNAL: i32 = 128;

/// The first SIGINT (Ctrl-C) or SIGTERM, which cancels what the program does.
#[derive(Debug)]
pub(super) struct Interrupt {
    token: CancelToken,
    /// The number of the signal that came last.
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Installs the handlers. The second signal ends the process at once: it may be waiting for
    /// something that looks at no token, such as the reader of a pipe.
    ///
    /// SIGHUP keeps what the process was started with: who says `nohup` wants the load to go on.
    pub(super) fn install() -> Self {
        let interrupt = Self { token: CancelToken::new(), signal: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // Without a handler the signal ends the process, which frees the memory as well.
            let _ = interrupt.handle(signal);
        }
        interrupt
    }

    /// Actions run in the order of their registration: the first signal must find the flag not yet
    /// set, and its number is known when the flag is seen.
    fn handle(&self, signal: i32) -> std::io::Result<()> {
        let flag = self.token.flag();
        flag::register_conditional_shutdown(signal, ENDED_BY_SIGNAL + signal, Arc::clone(&flag))?;
        flag::register_usize(
            signal,
            Arc::clone(&self.signal),
            usize::try_from(signal).unwrap_or(0),
        )?;
        flag::register(signal, flag)?;
        Ok(())
    }

    pub(super) fn token(&self) -> &CancelToken {
        &self.token
    }

    /// The exit code of a command that failed: after a cancellation, that of the signal.
    pub(super) fn exit_code(&self, failure: &Failure) -> u8 {
        let signal = self.signal.load(Ordering::Relaxed);
        match u8::try_from(signal) {
            Ok(signal @ 1..) if failure.is_cancelled() => ENDED_BY_SIGNAL as u8 + signal,
            _ => failure.exit_code(),
        }
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
