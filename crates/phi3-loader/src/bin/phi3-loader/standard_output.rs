//! Finds out whether the process was started with a standard output.
//!
//! If it is closed, the standard library opens `/dev/null` in its place before `main`. Results would then
//! be lost without an error. After that, the program cannot see whether it was closed or the caller chose
//! `/dev/null`.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_OPEN: AtomicBool = AtomicBool::new(true);

pub(crate) fn was_open() -> bool {
    WAS_OPEN.load(Ordering::Relaxed)
}

/// The C library calls the functions in this section before it calls `main`.
// SAFETY: the section holds addresses of functions without a result, and this is one. It ignores the
// arguments of the call. It only asks the kernel and stores to a static, so it needs nothing that is
// initialised later. It cannot panic.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let is_open = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_ok();
    WAS_OPEN.store(is_open, Ordering::Relaxed);
}
