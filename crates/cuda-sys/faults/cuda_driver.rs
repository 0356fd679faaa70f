//! Intercepts functions of the CUDA driver.
//!
//! The engine asks the runtime for their addresses. This file gives it the addresses of functions that behave like
//! them, except for planned faults.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use cuda_sys::ErrorCode;

use crate::calls::{self, Fault, Reach, Resource, Stage};
use crate::cuda_runtime::{
    CUDA_ERROR_LAUNCH_FAILURE, CUDA_ERROR_MEMORY_ALLOCATION, LAUNCH, MEMORY, through,
};
use crate::matrix::{Row, fails, succeeds};

const CUDA_ERROR_INVALID_VALUE: c_int = 1;

type Memory = *mut c_void;

/// Defines a module for each function: `REAL` is its address, and `wrap` stands for it. The words are those of
/// `cuda_runtime.rs`. `replacement` returns both of a name.
macro_rules! wrapped {
    (@also starts) => { false };
    (@also ends) => { true };
    ($(
        $kind:ident $name:ident($($argument:ident: $type:ty),*)
        $(, makes $made:ident at $out:ident)?
        $(, frees $freed:ident $gone:ident)?;
    )*) => {
        $(#[allow(non_snake_case, reason = "named after the function")]
        mod $name {
            use super::*;

            pub(super) static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

            pub(super) unsafe extern "C" fn wrap($($argument: $type),*) -> c_int {
                type Real = unsafe extern "C" fn($($type),*) -> c_int;
                // SAFETY: the driver's function of this name has this type.
                let real = unsafe {
                    std::mem::transmute::<*mut c_void, Real>(REAL.load(Ordering::Relaxed))
                };
                // Before the call: after it, another thread may already have received the same handle.
                $(calls::released(Resource::$freed, $gone.addr());)?
                let status = through(stringify!($name), wrapped!(@also $kind), || {
                    // SAFETY: the caller's own arguments.
                    unsafe { real($($argument),*) }
                });
                if status == 0 {
                    // SAFETY: a successful call has written the handle.
                    $(calls::created(Resource::$made, unsafe { *$out }.addr());)?
                }
                status
            }
        })*

        fn replacement(name: &CStr) -> Option<(&'static AtomicPtr<c_void>, *mut c_void)> {
            match name.to_str().ok()? {
                $(stringify!($name) => Some((&$name::REAL, $name::wrap as *mut c_void)),)*
                _ => None,
            }
        }
    };
}

wrapped! {
    ends cuMemAddressFree(address: Memory, bytes: usize), frees Mapping address;
    starts cuMemAddressReserve(
        out: *mut Memory, bytes: usize, alignment: usize, address: Memory, flags: c_ulonglong),
        makes Mapping at out;
    starts cuMemCreate(
        out: *mut Memory, bytes: usize, properties: *const c_void, flags: c_ulonglong),
        makes DeviceAllocation at out;
    starts cuMemExportToShareableHandle(
        out: *mut c_void, memory: Memory, kind: c_uint, flags: c_ulonglong);
    starts cuMemGetAllocationGranularity(
        out: *mut usize, properties: *const c_void, option: c_uint);
    starts cuMemGetAllocationPropertiesFromHandle(out: *mut c_void, memory: Memory);
    starts cuMemImportFromShareableHandle(out: *mut Memory, descriptor: *mut c_void, kind: c_uint),
        makes DeviceAllocation at out;
    starts cuMemMap(
        address: Memory, bytes: usize, offset: usize, memory: Memory, flags: c_ulonglong);
    ends cuMemRelease(memory: Memory), frees DeviceAllocation memory;
    starts cuMemSetAccess(address: Memory, bytes: usize, access: *const c_void, count: usize);
    ends cuMemUnmap(address: Memory, bytes: usize);
}

unsafe extern "C" {
    #[link_name = "__real_cudaGetDriverEntryPointByVersion"]
    fn real_entry_point(
        name: *const c_char,
        out: *mut *mut c_void,
        version: c_uint,
        flags: c_ulonglong,
        found: *mut c_int,
    ) -> c_int;
}

// SAFETY: has the signature of the runtime's function, and returns functions that behave like the driver's.
#[unsafe(export_name = "__wrap_cudaGetDriverEntryPointByVersion")]
unsafe extern "C" fn entry_point(
    name: *const c_char,
    out: *mut *mut c_void,
    version: c_uint,
    flags: c_ulonglong,
    found: *mut c_int,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let status = unsafe { real_entry_point(name, out, version, flags, found) };
    // SAFETY: the caller passes a C string.
    let replaced = replacement(unsafe { CStr::from_ptr(name) });
    if status == 0
        && let Some((real, wrap)) = replaced
    {
        // SAFETY: a successful call has written the address.
        real.store(unsafe { *out }, Ordering::Relaxed);
        // SAFETY: the caller's own variable.
        unsafe { *out = wrap };
    }
    status
}

const FOREIGN: [ErrorCode; 1] = [ErrorCode::ForeignMemory];

/// Returns the table of faults in this file, with the permitted results. `cuda_runtime.rs` adds that every function
/// fails with all later calls.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |call, status, outcome: fn(Stage) -> _| {
        rows.push(Row { call, fault: Fault::Status(status), reach: Reach::Once, outcome });
    };
    add("cuMemCreate", CUDA_ERROR_MEMORY_ALLOCATION, |_| fails(&MEMORY));
    for call in [
        "cuMemAddressReserve",
        "cuMemCreate",
        "cuMemExportToShareableHandle",
        "cuMemGetAllocationGranularity",
        "cuMemGetAllocationPropertiesFromHandle",
        "cuMemImportFromShareableHandle",
        "cuMemMap",
        "cuMemSetAccess",
    ] {
        add(call, CUDA_ERROR_LAUNCH_FAILURE, |_| fails(&LAUNCH));
    }
    // A descriptor that is something else.
    for call in ["cuMemGetAllocationPropertiesFromHandle", "cuMemImportFromShareableHandle"] {
        add(call, CUDA_ERROR_INVALID_VALUE, |_| fails(&FOREIGN));
    }
    for call in ["cuMemAddressFree", "cuMemRelease", "cuMemUnmap"] {
        add(call, CUDA_ERROR_LAUNCH_FAILURE, succeeds);
    }
    rows
}
