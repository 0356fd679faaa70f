//! Passes progress from C++ to the observer, and keeps panics out of C++.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The progress of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// Units `0..units_done` are complete.
    pub units_done: u32,
    /// Source bytes that have arrived. Bytes that several lanes need count once.
    pub bytes_done: u64,
    /// Source bytes that have arrived on each lane, those of helpers last.
    pub lane_bytes: &'a [u64],
}

pub(crate) struct ObserverShim<'a> {
    observe: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a> ObserverShim<'a> {
    pub(crate) fn new(observe: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>) -> Self {
        Self { observe, panic: None }
    }

    /// The engine calls this; `false` cancels. A panic must not unwind through C++. It cancels instead,
    /// and is stored until C++ has cleaned up.
    pub(crate) fn on_progress(
        &mut self,
        units_done: u32,
        bytes_done: u64,
        lane_bytes: &[u64],
    ) -> bool {
        let progress = Progress { units_done, bytes_done, lane_bytes };
        let observe = &mut self.observe;
        // A panic may leave the values that the closure captured in a broken state. They are not used
        // again before the panic continues.
        match catch_unwind(AssertUnwindSafe(|| observe(progress))) {
            Ok(flow) => flow.is_continue(),
            Err(payload) => {
                self.panic = Some(payload);
                false
            }
        }
    }

    /// Continues a stored panic.
    pub(crate) fn resume_panic(self) {
        if let Some(payload) = self.panic {
            resume_unwind(payload);
        }
    }
}
