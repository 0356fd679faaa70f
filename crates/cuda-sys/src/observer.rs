//! Carries progress out of C++, and panics around it.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What has landed on the device so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Units `0..units_done` are complete.
    pub units_done: u32,
    /// Source bytes that have landed.
    pub bytes_done: u64,
}

pub(crate) struct ObserverShim<'a> {
    observe: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a> ObserverShim<'a> {
    pub(crate) fn new(observe: &'a mut dyn FnMut(Progress) -> ControlFlow<()>) -> Self {
        Self { observe, panic: None }
    }

    /// Called by the engine; false cancels. A panic must not unwind through C++: it cancels, and
    /// waits here until C++ has cleaned up.
    pub(crate) fn on_progress(&mut self, units_done: u32, bytes_done: u64) -> bool {
        let observe = &mut self.observe;
        // The closure's captures may be left in a broken state; nobody sees them again before the
        // panic goes on.
        match catch_unwind(AssertUnwindSafe(|| observe(Progress { units_done, bytes_done }))) {
            Ok(flow) => flow.is_continue(),
            Err(payload) => {
                self.panic = Some(payload);
                false
            }
        }
    }

    /// Lets a caught panic go on.
    pub(crate) fn resume_panic(self) {
        if let Some(payload) = self.panic {
            resume_unwind(payload);
        }
    }
}
