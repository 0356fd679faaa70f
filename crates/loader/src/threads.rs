//! Threads whose memory is known before they start, which
//! [`host_memory::bytes_of_threads`](crate::host_memory::bytes_of_threads) says.

use std::thread::Builder;

/// Bytes of a thread's stack. Set for every thread: the standard library's default is what the
/// environment variable `RUST_MIN_STACK` says, and with a few kilobytes of stack the process ends with
/// a fault.
pub(crate) const STACK_BYTES: usize = 2 << 20;

/// A thread with a stack of 2 MiB, whatever the environment says.
pub fn builder() -> Builder {
    Builder::new().stack_size(STACK_BYTES)
}
