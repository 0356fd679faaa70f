//! Work that a caller waits for until its token is cancelled.

use crate::cancel::CancelToken;
use crate::{host_memory, threads};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time between two looks at the token.
const LOOK: Duration = Duration::from_millis(10);

/// Work on a thread of its own, which a [`CancelToken`] ends the wait for and not the work.
///
/// Dropping it waits for the work to end.
///
/// ```
/// use loader::{Background, CancelToken};
/// let mut sum = Background::start(|| 3 + 4);
/// assert_eq!(sum.wait(&CancelToken::new()), Some(7));
/// ```
#[derive(Debug)]
pub struct Background<T> {
    outcome: Arc<Outcome<T>>,
    thread: Option<JoinHandle<()>>,
}

/// Result or panic of the work. Not a channel: a channel allocates when it sends, and an allocation that
/// fails after the work would make finished work a failure.
#[derive(Debug)]
struct Outcome<T> {
    result: Mutex<Option<thread::Result<T>>>,
    is_there: Condvar,
}

impl<T> Outcome<T> {
    fn set_by(&self, work: impl FnOnce() -> T) {
        // A panic goes on in the thread that waits, which uses nothing of the work after it.
        let result = catch_unwind(AssertUnwindSafe(work));
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.is_there.notify_one();
    }
}

impl<T: Send + 'static> Background<T> {
    /// Starts the work. If no thread can be started, does the work before this returns.
    pub fn start(work: impl Fn() -> T + Clone + Send + 'static) -> Self {
        let outcome = Arc::new(Outcome { result: Mutex::new(None), is_there: Condvar::new() });
        let spawn = || {
            let (outcome, work) = (Arc::clone(&outcome), work.clone());
            threads::builder().name("phi3-open".to_owned()).spawn(move || outcome.set_by(work))
        };
        let room = host_memory::room_for_threads(1, 0) == 1;
        let thread = room.then(spawn).and_then(Result::ok);
        if thread.is_none() {
            outcome.set_by(work);
        }
        Self { outcome, thread }
    }

    /// The result of the work. `None` if the token is cancelled first; then the work goes on. A panic
    /// of the work goes on here.
    pub fn wait(&mut self, token: &CancelToken) -> Option<T> {
        let mut result = self.outcome.result.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = result.take() {
                return Some(result.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            if token.is_cancelled() {
                return None;
            }
            let waited = self.outcome.is_there.wait_timeout(result, LOOK);
            result = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The thread catches panics of the work.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Barrier};

    #[test]
    fn a_cancelled_wait_leaves_the_work_to_the_next() {
        let gate = Arc::new(Barrier::new(2));
        let inside = Arc::clone(&gate);
        let mut work = Background::start(move || {
            inside.wait();
            7
        });
        let cancelled = CancelToken::new();
        cancelled.cancel();
        assert_eq!(work.wait(&cancelled), None);
        gate.wait();
        assert_eq!(work.wait(&CancelToken::new()), Some(7));
    }

    #[test]
    fn a_panic_goes_on_in_who_waits() {
        let mut work = Background::<()>::start(|| panic!("no device, please"));
        let panic = catch_unwind(AssertUnwindSafe(|| work.wait(&CancelToken::new()))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no device, please"));
    }
}
