//! Checks whether the process was started with an open standard output.
//!
//! If it is closed, the standard library opens `/dev/null` in its place before `main`, and results would be
//! lost without an error. In `main` it is too late to check, because the caller may have chosen `/dev/null`.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_OPEN: AtomicBool = AtomicBool::new(true);

pub(crate) fn was_open() -> bool {
    WAS_OPEN.load(Ordering::Relaxed)
}

/// The C library calls the functions in this section before it calls `main`.
// SAFETY: the section contains addresses of functions without a result, and this is one. It ignores the
// arguments of the call. It only makes a system call and stores to a static, so it needs nothing that is
// initialised later. It cannot panic.
#[used]
#[unsafe(link_section = ".init_array")]
static CHECK: extern "C" fn() = check;

extern "C" fn check() {
    let is_open = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_ok();
    WAS_OPEN.store(is_open, Ordering::Relaxed);
}
