//! The program's allocator: if memory is refused, it reports that and ends the process.
//!
//! Rust's default is to abort. With `RUST_BACKTRACE` it prints a backtrace first, which allocates and
//! takes a lock; if the allocation fails while a backtrace is being printed, the thread already holds
//! that lock, and the process hangs. So this allocator never returns a null pointer.

use std::alloc::{GlobalAlloc, Layout};

/// Allocates with another allocator. If that fails, ends the process with exit code 6.
pub(crate) struct OrExit<A>(pub(crate) A);

/// Has the C library allocate for all threads in one place.
///
/// Otherwise it reserves 64 MiB of addresses for each thread. With a limit of addresses (`RLIMIT_AS`), memory
/// that was found free before threads were started is gone when they run, and the C library ends the process
/// if it can allocate nothing for a new thread.
pub(crate) fn share_between_threads() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Of `malloc.h`.
        const M_ARENA_MAX: std::ffi::c_int = -8;
        unsafe extern "C" {
            safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // If it refuses, limits of addresses are met less precisely.
        let _ = mallopt(M_ARENA_MAX, 1);
    }
}

/// Returns `memory`; ends the process if it is null.
fn given(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() {
        phi3_loader::out_of_memory(bytes);
    }
    memory
}

// SAFETY: every call goes to the other allocator, which keeps the contract, with the caller's own
// arguments, and its answer is returned. Ending the process is not unwinding, and what does so
// allocates nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for OrExit<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        given(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        given(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise; all memory of this allocator is the other's.
        given(unsafe { self.0.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(memory, layout) };
    }
}
