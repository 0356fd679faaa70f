//! Threads with a fixed stack size, so that
//! [`host_memory::bytes_of_threads`](crate::host_memory::bytes_of_threads) can compute their memory before they
//! start.

use std::panic::resume_unwind;
use std::thread::{Builder, ScopedJoinHandle};

/// Bytes of a thread's stack. Set for every thread, because the environment variable `RUST_MIN_STACK` changes
/// the default of the standard library. With a stack of a few kilobytes the process would crash.
pub(crate) const STACK_BYTES: usize = 2 << 20;

/// Returns a builder of threads with a stack of 2 MiB, independent of the environment.
pub fn builder() -> Builder {
    Builder::new().stack_size(STACK_BYTES)
}

/// Waits for a thread and returns its result. A panic of the thread is a bug, and continues here.
pub fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
