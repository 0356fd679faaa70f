//! The program's allocator. If the system refuses memory, it reports that and ends the process.
//!
//! By default, Rust aborts. With `RUST_BACKTRACE` it first prints a backtrace, which takes a lock and
//! allocates. If that allocation fails too, the failure handler waits for the lock that its own thread holds,
//! and the process hangs. To prevent this, this allocator never returns a null pointer.

use std::alloc::{GlobalAlloc, Layout};

/// Allocates with another allocator. If that fails, ends the process with exit code 6.
pub(crate) struct OrExit<A>(pub(crate) A);

/// Makes the C library use one heap for all threads.
///
/// By default it reserves 64 MiB of addresses for each thread. If addresses are limited (`RLIMIT_AS`), the
/// threads can thus use up memory that was checked as free. If the C library cannot allocate memory for a new
/// thread, it ends the process.
pub(crate) fn share_between_threads() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// From `malloc.h`.
        const M_ARENA_MAX: std::ffi::c_int = -8;
        unsafe extern "C" {
            safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // Ignore a failure: only the checks of address limits become less precise.
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

// SAFETY: every call goes to the other allocator with the caller's own arguments, and returns its result.
// The other allocator keeps the contract. Ending the process is not unwinding, and the code that ends it
// allocates nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for OrExit<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        given(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        given(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract; all memory of this allocator comes from the other one.
        given(unsafe { self.0.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: see `realloc`.
        unsafe { self.0.dealloc(memory, layout) };
    }
}
