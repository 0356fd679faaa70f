//! Cancels a load from another thread.

use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels loads from any thread. All clones share one state.
///
/// A cancelled token stays cancelled, and a load with it fails at once. The next load needs a new token.
///
/// A load checks its token between its steps, while it waits for a device to open, about 50 times a second
/// during the transfer, and between windows of the readback. It returns within 100 ms of
/// [`cancel`](Self::cancel), unless a single call of the system, the driver or the observer takes longer.
///
/// ```
/// let token = loader::CancelToken::new();
/// let other = token.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
/// ```
///
/// A flag that a program already has becomes a token with [`From`]: for example one that a signal handler of the
/// crate `signal-hook` sets. A token of `tokio_util` is passed on by a task, which ends with the load:
///
/// ```ignore
/// let (theirs, ours) = (cancellation_token.clone(), cancel_token.clone());
/// let watcher = tokio::spawn(async move {
///     theirs.cancelled().await;
///     ours.cancel();
/// });
/// let loaded = tokio::task::spawn_blocking(move || load(cancel_token)).await;
/// watcher.abort();
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

/// The token is cancelled when the flag is true.
impl From<Arc<AtomicBool>> for CancelToken {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}

impl CancelToken {
    /// Returns a token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every load that has this token. Safe in a signal handler: it only stores to an atomic variable.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if the token is cancelled. For work that checks the token between its steps.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Returns [`ControlFlow::Break`] if [`cancel`](Self::cancel) was called. For observers.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// An observer that also breaks if a token is cancelled, either before the event or during the observer's call.
pub(crate) struct Cancellable<'a> {
    pub(crate) observer: &'a mut dyn Observer,
    pub(crate) token: &'a CancelToken,
}

impl Observer for Cancellable<'_> {
    fn event(&mut self, event: &LoadEvent<'_>) -> ControlFlow<()> {
        self.token.flow()?;
        self.observer.event(event)?;
        self.token.flow()
    }
}
