//! The destructor of Python capsules.
//!
//! It must not be a Python function. Python destroys objects also while an exception is set, for example when
//! NumPy refuses a tensor. A Python function that `ctypes` calls then fails with the foreign exception: the
//! tensor leaks, and CPython 3.11 crashed. This library does not link to Python, so `weights.py` passes the
//! two functions that are needed.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use crate::entry::entry;
use crate::phi3_delete;

/// The name of a capsule that no consumer has taken. A consumer renames it. A capsule stores only the address
/// of its name, so the name must live as long as the process.
#[unsafe(no_mangle)]
pub static PHI3_CAPSULE_NAME: [u8; 19] = *b"dltensor_versioned\0";

/// `PyCapsule_IsValid`.
type IsValid = unsafe extern "C" fn(capsule: *mut c_void, name: *const c_char) -> c_int;
/// `PyCapsule_GetPointer`.
type GetPointer = unsafe extern "C" fn(capsule: *mut c_void, name: *const c_char) -> *mut c_void;

static PYTHON: OnceLock<(IsValid, GetPointer)> = OnceLock::new();

/// Stores the functions that [`phi3_capsule_destructor`] calls. Only the first call has an effect: a process
/// has one Python.
///
/// # Safety
///
/// The arguments are null or the functions `PyCapsule_IsValid` and `PyCapsule_GetPointer` of this process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_use_python(
    is_valid: Option<IsValid>,
    get_pointer: Option<GetPointer>,
) -> bool {
    entry(false, || {
        let (Some(is_valid), Some(get_pointer)) = (is_valid, get_pointer) else {
            return Err("a function is null".to_owned());
        };
        PYTHON.get_or_init(|| (is_valid, get_pointer));
        Ok(true)
    })
}

/// Frees the tensor of a capsule that no consumer has taken. For `PyCapsule_New`.
///
/// # Safety
///
/// Python calls this for a capsule named `dltensor_versioned` that holds the result of
/// [`phi3_dlpack`](crate::phi3_dlpack).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_capsule_destructor(capsule: *mut c_void) {
    entry((), || {
        let Some((is_valid, get_pointer)) = PYTHON.get() else {
            return Err("phi3_use_python was not called: a tensor leaks".to_owned());
        };
        let name = PHI3_CAPSULE_NAME.as_ptr().cast::<c_char>();
        // SAFETY: Python passes the capsule that it destroys and holds its lock, which both functions need.
        if unsafe { is_valid(capsule, name) } == 0 {
            // A consumer has taken the tensor and calls the deleter itself.
            return Ok(());
        }
        // SAFETY: the same. The capsule has this name, so that the function sets no exception.
        let tensor = unsafe { get_pointer(capsule, name) };
        // SAFETY: the capsule still has its first name, so its pointer is the result of `phi3_dlpack`, whose
        // deleter nothing has called.
        unsafe { phi3_delete(tensor.cast()) };
        Ok(())
    });
}
