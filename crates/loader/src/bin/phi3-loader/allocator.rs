//! The program's allocator: if memory is refused, it reports that and ends the process.
//!
//! Rust's default is to abort. With `RUST_BACKTRACE` it prints a backtrace first, which allocates and
//! takes a lock; if the allocation fails while a backtrace is being printed, the thread already holds
//! that lock, and the process hangs. So this allocator never returns a null pointer.

use std::alloc::{GlobalAlloc, Layout};

/// Allocates with another allocator. If that fails, ends the process with exit code 6.
pub(crate) struct OrExit<A>(pub(crate) A);

/// Returns `memory`; ends the process if it is null.
fn given(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() {
        loader::cli::out_of_memory(bytes);
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
