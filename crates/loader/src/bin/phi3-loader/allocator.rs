//! An allocator for a program that ends in order where there is no memory.
//!
//! Rust's own way is to abort, and before that to print a backtrace where one is asked for, which
//! takes memory and a lock that the thread may already hold. So no refusal leaves this allocator.

use std::alloc::{GlobalAlloc, Layout};

/// Gives memory of another allocator, or ends the process with exit code 6.
pub(crate) struct OrExit<A>(pub(crate) A);

/// What the other gave; ends the process where that is nothing.
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
