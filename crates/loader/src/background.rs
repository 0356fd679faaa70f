//! Work that a load waits for only as long as it is not cancelled.

use crate::cancel::CancelToken;
use crate::host_memory;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How late a cancellation is heard.
const LOOK: Duration = Duration::from_millis(10);

/// Work on a thread of its own. Dropping it waits for the work to end.
#[derive(Debug)]
pub(crate) struct Background<T> {
    result: Receiver<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts the work; does it here and now where there is no thread to be had.
    pub(crate) fn start(work: impl Fn() -> T + Clone + Send + 'static) -> Self {
        let (sender, result) = channel();
        let remote = (work.clone(), sender.clone());
        let spawn = || {
            Builder::new().name("phi3-open".to_owned()).spawn(move || {
                let (work, sender) = remote;
                // Nobody waits any more where this fails.
                let _ = sender.send(work());
            })
        };
        let room = host_memory::room_for_threads(1, 0) == 1;
        let thread = room.then(spawn).and_then(Result::ok);
        if thread.is_none() {
            // The receiver is still in this function.
            let _ = sender.send(work());
        }
        Self { result, thread }
    }

    /// What came of the work; `None` where the token is cancelled first, and the work goes on. A
    /// panic of the work goes on here.
    pub(crate) fn wait(&mut self, token: &CancelToken) -> Option<T> {
        loop {
            match self.result.recv_timeout(LOOK) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Timeout) if token.is_cancelled() => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                        std::panic::resume_unwind(panic);
                    }
                    return None;
                }
            }
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there has nobody left to go on in.
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
