//! The frame of every C function: it catches panics and stores the text of an error.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Runs the body of a C function. If it fails or panics, stores the reason and returns `failed`.
pub(crate) fn entry<T>(failed: T, body: impl FnOnce() -> Result<T, String>) -> T {
    // After a panic only `failed` and the stored text are used, and the body has not seen them. A handle stays
    // usable, because its lock is taken even if it is poisoned.
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(error)) => error,
        Err(panic) => {
            // The destructor of a payload could panic again.
            std::mem::forget(panic);
            "the library panicked: this is a bug".to_owned()
        }
    };
    let error = CString::new(error.replace('\0', "\\0")).ok();
    // At the end of a thread its variables are gone. The text is then lost, but the call still reports a
    // failure.
    let _ = LAST_ERROR.try_with(|last| last.replace(error));
    failed
}

/// Returns the stored text of this thread. It is valid until the next failure of this thread.
pub(crate) fn last_error() -> *const c_char {
    const NONE: *const c_char = c"".as_ptr();
    let text =
        LAST_ERROR.try_with(|last| last.try_borrow().ok()?.as_ref().map(|text| text.as_ptr()));
    text.ok().flatten().unwrap_or(NONE)
}
