//! Cancels a load from another thread.

use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels loads from any thread. Clones are the same token.
///
/// A token that is cancelled stays cancelled: a load with it ends at once. The next load needs a new token.
///
/// A load checks its token between its steps, while it waits for a device to open, about 50 times a second
/// while bytes move, and between the pieces that it compares. It returns within 100 ms of
/// [`cancel`](Self::cancel), unless a single call of the system or the driver takes longer.
///
/// ```
/// let token = loader::CancelToken::new();
/// let other = token.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every load that has this token. One store to memory: safe in a signal handler.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For work that a token cancels between its steps.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The same for observers: [`ControlFlow::Break`] if [`cancel`](Self::cancel) was called.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// An observer that also breaks if a token is cancelled, before the event or by the observer.
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
