//! Intercepts functions of the CUDA runtime.
//!
//! The runtime is linked statically, so the linker redirects the calls: with `--wrap=NAME`, calls of `NAME`
//! go to `__wrap_NAME`, and `__real_NAME` is the real function. `build/watched.rs` has the list.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cuda_sys::ErrorCode;

use crate::calls::{self, Fault, Reach, Resource, Stage};
use crate::cuda_driver;
use crate::matrix::{Outcome, Row, Success, fails, may_fail, succeeds};

pub(crate) const CUDA_ERROR_MEMORY_ALLOCATION: c_int = 2;
const CUDA_ERROR_DEVICES_UNAVAILABLE: c_int = 46;
pub(crate) const CUDA_ERROR_LAUNCH_FAILURE: c_int = 719;
const CUDA_ERROR_UNKNOWN: c_int = 999;

/// Counts a call, and makes it fail as planned. Calls that release or wait are executed even if they fail:
/// the device is not really lost, and would still use freed memory.
pub(crate) fn through(
    name: &'static str,
    also_if_failing: bool,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let fault = calls::count_call(name, true).map(|fault| match fault {
        Fault::Status(status) => status,
        Fault::Short
        | Fault::Trickle
        | Fault::EndOfFile
        | Fault::BadAlloc
        | Fault::ForeignException => CUDA_ERROR_UNKNOWN,
    });
    if let Some(status) = fault
        && !also_if_failing
    {
        return status;
    }
    let watched = calls::watch(false);
    let status = real();
    calls::watch(watched);
    fault.unwrap_or(status)
}

/// Defines `__wrap_NAME` for each function. If a call fails, functions after `starts` do nothing, and
/// functions after `ends` do their work. `makes` records a handle that the function writes to an argument,
/// `registers` records an argument itself, and `frees` records the release of an argument.
macro_rules! wrapped {
    (@also starts) => { false };
    (@also ends) => { true };
    ($(
        $kind:ident $name:ident($($argument:ident: $type:ty),*)
        $(, makes $made:ident at $out:ident)?
        $(, registers $registered:ident $handle:ident)?
        $(, frees $freed:ident $gone:ident)?;
    )*) => { $(const _: () = {
        unsafe extern "C" {
            #[link_name = concat!("__real_", stringify!($name))]
            fn real($($argument: $type),*) -> c_int;
        }

        // SAFETY: has the signature of the runtime's function, and behaves like it, except for planned
        // faults.
        #[unsafe(export_name = concat!("__wrap_", stringify!($name)))]
        unsafe extern "C" fn wrap($($argument: $type),*) -> c_int {
            // Before the call: after it, another thread may already have received the same handle.
            $(calls::released(Resource::$freed, $gone.addr());)?
            let status = through(stringify!($name), wrapped!(@also $kind), || {
                // SAFETY: the caller's own arguments.
                unsafe { real($($argument),*) }
            });
            if status == 0 {
                // SAFETY: a successful call has written the handle.
                $(calls::created(Resource::$made, unsafe { *$out }.addr());)?
                $(calls::created(Resource::$registered, $handle.addr());)?
            }
            status
        }
    };)* };
}

type Memory = *mut c_void;
type Stream = *mut c_void;
type Event = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
struct Dim3 {
    x: c_uint,
    y: c_uint,
    z: c_uint,
}

wrapped! {
    starts cudaDeviceCanAccessPeer(out: *mut c_int, device: c_int, peer: c_int);
    starts cudaDeviceEnablePeerAccess(peer: c_int, flags: c_uint);
    starts cudaDeviceGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int);
    starts cudaDeviceGetPCIBusId(out: *mut c_char, bytes: c_int, device: c_int);
    ends cudaDeviceSynchronize();
    starts cudaEventCreateWithFlags(out: *mut Event, flags: c_uint), makes Event at out;
    ends cudaEventDestroy(event: Event), frees Event event;
    starts cudaEventElapsedTime(out: *mut f32, start: Event, end: Event);
    starts cudaEventQuery(event: Event);
    starts cudaEventRecord(event: Event, stream: Stream);
    ends cudaEventSynchronize(event: Event);
    ends cudaFree(memory: Memory), frees DeviceAllocation memory;
    starts cudaFuncGetAttributes(out: Memory, function: *const c_void);
    starts cudaGetDeviceCount(out: *mut c_int);
    starts cudaGetDeviceProperties(out: Memory, device: c_int);
    ends cudaGetLastError();
    starts cudaHostRegister(memory: Memory, bytes: usize, flags: c_uint), registers Registration memory;
    ends cudaHostUnregister(memory: Memory), frees Registration memory;
    starts cudaLaunchKernel(
        function: *const c_void, grid: Dim3, block: Dim3, arguments: *mut Memory, shared: usize,
        stream: Stream);
    starts cudaLaunchKernelExC(
        config: *const c_void, function: *const c_void, arguments: *mut Memory);
    starts cudaMalloc(out: *mut Memory, bytes: usize), makes DeviceAllocation at out;
    starts cudaMemGetInfo(free: *mut usize, total: *mut usize);
    starts cudaMemcpy(to: Memory, from: *const c_void, bytes: usize, kind: c_int);
    starts cudaMemcpyAsync(
        to: Memory, from: *const c_void, bytes: usize, kind: c_int, stream: Stream);
    starts cudaMemcpyPeerAsync(
        to: Memory, to_device: c_int, from: *const c_void, from_device: c_int, bytes: usize,
        stream: Stream);
    starts cudaMemsetAsync(to: Memory, value: c_int, bytes: usize, stream: Stream);
    starts cudaPointerGetAttributes(out: Memory, pointer: *const c_void);
    starts cudaSetDevice(device: c_int);
    starts cudaStreamCreateWithPriority(out: *mut Stream, flags: c_uint, priority: c_int),
        makes Stream at out;
    ends cudaStreamDestroy(stream: Stream), frees Stream stream;
    starts cudaStreamQuery(stream: Stream);
    ends cudaStreamSynchronize(stream: Stream);
    starts cudaStreamWaitEvent(stream: Stream, event: Event, flags: c_uint);
}

/// Functions that are intercepted but need no row, because their results decide nothing.
pub(crate) const WITHOUT_ROW: [&str; 1] = ["cudaGetLastError"];

pub(crate) const LAUNCH: [ErrorCode; 1] = [ErrorCode::DeviceFailure];
const UNAVAILABLE: [ErrorCode; 1] = [ErrorCode::DeviceUnavailable];
pub(crate) const MEMORY: [ErrorCode; 1] = [ErrorCode::OutOfMemory];

/// Functions that are called only if one lane takes bytes from another.
pub(crate) const BETWEEN_LANES: [&str; 1] = ["cudaMemcpyPeerAsync"];
/// The same, if the lanes are on two GPUs.
pub(crate) const BETWEEN_GPUS: [&str; 3] =
    ["cudaMemcpyPeerAsync", "cudaDeviceCanAccessPeer", "cudaDeviceEnablePeerAccess"];

/// Returns the table of faults in this file, with the permitted results. Every function fails alone, and
/// also with all later calls, as on a lost device. `between` has the functions that this load calls to take bytes
/// from another lane.
pub(crate) fn rows(between: &[&'static str]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |call, status, reach, outcome| {
        rows.push(Row { call, fault: Fault::Status(status), reach, outcome });
    };

    for call in ["cudaEventCreateWithFlags", "cudaMalloc", "cudaStreamCreateWithPriority"] {
        add(call, CUDA_ERROR_MEMORY_ALLOCATION, Reach::Once, |_| fails(&MEMORY));
    }

    // A failure of one of these ends a load.
    for call in [
        "cudaDeviceGetPCIBusId",
        "cudaDeviceGetStreamPriorityRange",
        "cudaEventCreateWithFlags",
        "cudaEventElapsedTime",
        "cudaEventRecord",
        "cudaEventSynchronize",
        "cudaFuncGetAttributes",
        "cudaGetDeviceCount",
        "cudaGetDeviceProperties",
        "cudaLaunchKernelExC",
        "cudaMalloc",
        "cudaMemGetInfo",
        "cudaMemcpy",
        "cudaMemcpyAsync",
        "cudaMemsetAsync",
        "cudaPointerGetAttributes",
        "cudaStreamCreateWithPriority",
        "cudaStreamWaitEvent",
    ] {
        add(call, CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, |_| fails(&LAUNCH));
        add(call, CUDA_ERROR_DEVICES_UNAVAILABLE, Reach::Once, |_| fails(&UNAVAILABLE));
    }
    for call in between {
        add(call, CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, |_| fails(&LAUNCH));
    }

    // Readers also call it at a time when no error can be reported yet.
    add("cudaSetDevice", CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, |_| may_fail(&LAUNCH));
    add("cudaStreamSynchronize", CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, |stage| match stage {
        Stage::Drop => succeeds(stage),
        _ => fails(&LAUNCH),
    });
    // A destructor cannot report that waiting failed.
    add("cudaDeviceSynchronize", CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, |stage| match stage {
        Stage::Drop => succeeds(stage),
        _ => may_fail(&LAUNCH),
    });
    // When a device is opened, `cudaFree(nullptr)` makes the runtime create its context.
    add("cudaFree", CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, |stage| match stage {
        Stage::Open => fails(&LAUNCH),
        _ => succeeds(stage),
    });
    for call in ["cudaEventDestroy", "cudaHostUnregister", "cudaStreamDestroy"] {
        add(call, CUDA_ERROR_LAUNCH_FAILURE, Reach::Once, succeeds);
    }
    // A process may lack the right to pin memory.
    add("cudaHostRegister", CUDA_ERROR_MEMORY_ALLOCATION, Reach::Once, |_| Outcome {
        success: Success::Unpinned,
        codes: &[],
    });

    rows.extend(cuda_driver::rows());
    let mut functions: Vec<_> = rows.iter().map(|row| row.call).collect();
    functions.sort_unstable();
    functions.dedup();
    rows.extend(functions.into_iter().map(|call| Row {
        call,
        fault: Fault::Status(CUDA_ERROR_LAUNCH_FAILURE),
        reach: Reach::Lost,
        outcome: |stage| match stage {
            // If the device is lost in the last pass, no later call reports it.
            Stage::Drop => may_fail(&LAUNCH),
            _ => fails(&LAUNCH),
        },
    }));
    rows
}
