//! Whether the process was started with a standard output.
//!
//! Before `main`, the standard library opens `/dev/null` in the place of a closed one. Results would be
//! lost there without an error, and nothing tells it from a `/dev/null` that the caller chose.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_OPEN: AtomicBool = AtomicBool::new(true);

pub(crate) fn was_open() -> bool {
    WAS_OPEN.load(Ordering::Relaxed)
}

/// The C library calls what stands in this section before it calls `main`.
// SAFETY: the section holds addresses of functions without a result, and this is one. The arguments that
// it is called with are ignored. It needs nothing that is only there later: it asks the kernel and
// stores to a static. It cannot panic.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let is_open = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_ok();
    WAS_OPEN.store(is_open, Ordering::Relaxed);
}
