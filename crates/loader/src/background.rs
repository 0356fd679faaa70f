//! Runs work on a thread. A cancelled token ends the wait for the work.

use crate::cancel::CancelToken;
use crate::{host_memory, threads};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time between two checks of the token.
const LOOK: Duration = Duration::from_millis(10);

/// Work on its own thread. A [`CancelToken`] ends a wait for the work, but not the work itself.
///
/// Dropping it waits until the work ends.
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

/// The result or panic of the work. A channel would allocate memory to send it; if that allocation failed, the
/// result would be lost.
#[derive(Debug)]
struct Outcome<T> {
    result: Mutex<Option<thread::Result<T>>>,
    is_there: Condvar,
}

impl<T> Outcome<T> {
    fn set_by(&self, work: impl FnOnce() -> T) {
        // `wait` resumes the panic in the waiting thread, so that thread never uses the state that the work
        // left. Hence `AssertUnwindSafe`.
        let result = catch_unwind(AssertUnwindSafe(work));
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.is_there.notify_one();
    }
}

impl<T: Send + 'static> Background<T> {
    /// Starts the work. If no thread can be started, does the work in the calling thread.
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

    /// Waits for the result of the work. Returns `None` if the token is cancelled first; the work then
    /// continues. If the work panics, resumes the panic in the calling thread.
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
            // The thread catches panics of the work, so `join` returns no error.
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
    fn a_wait_after_a_cancelled_wait_returns_the_result() {
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
    fn a_panic_of_the_work_resumes_in_the_waiting_thread() {
        let mut work = Background::<()>::start(|| panic!("test panic"));
        let panic = catch_unwind(AssertUnwindSafe(|| work.wait(&CancelToken::new()))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"test panic"));
    }
}
