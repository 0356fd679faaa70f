//! Intercepts functions of the C and C++ libraries.
//!
//! If a program defines a function, the program and its shared libraries call that definition. Examples are
//! `pread` in the engine, and `pthread_create` and `operator new` in libstdc++.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use cuda_sys::ErrorCode;

use crate::calls::{self, Fault, Reach, Resource, Stage};
use crate::matrix::{Outcome, Row, Success, fails, may_fail, succeeds};

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const EOPNOTSUPP: i32 = 95;

const RTLD_NEXT: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);
const MAP_FAILED: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);
const F_GETFL: c_int = 3;
const O_DIRECT: c_int = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };

/// A short direct read ends on a multiple of this number of bytes.
const DIRECT_BLOCK: usize = 4096;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn fcntl(descriptor: c_int, command: c_int) -> c_int;
    fn malloc(bytes: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
}

unsafe extern "C-unwind" {
    #[link_name = "_ZSt17__throw_bad_allocv"]
    fn throw_bad_alloc() -> !;
    #[link_name = "_ZSt19__throw_logic_errorPKc"]
    fn throw_logic_error(what: *const c_char) -> !;
}

fn errno() -> i32 {
    // SAFETY: the function has no preconditions.
    let errno = unsafe { __errno_location() };
    // SAFETY: the address of this thread's own errno.
    unsafe { *errno }
}

fn set_errno(value: i32) {
    // SAFETY: the function has no preconditions.
    let errno = unsafe { __errno_location() };
    // SAFETY: the address of this thread's own errno.
    unsafe { *errno = value };
}

/// Returns the address of the next function of this name after this program's own.
fn real(name: &CStr) -> usize {
    // SAFETY: the name is a C string, and the function only looks it up.
    let address = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) };
    if address.is_null() {
        std::process::abort();
    }
    address.expose_provenance()
}

/// Returns the real function as a function pointer of the given type.
macro_rules! real {
    ($name:literal as $type:ty) => {{
        static ADDRESS: OnceLock<usize> = OnceLock::new();
        let address = *ADDRESS.get_or_init(|| real($name));
        // SAFETY: the C library's function of this name has this type.
        unsafe {
            std::mem::transmute::<*const c_void, $type>(std::ptr::with_exposed_provenance(address))
        }
    }};
}

type Pread = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;

// SAFETY: has the signature of the C library's function, and behaves like it, except for planned faults.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread(descriptor: c_int, out: *mut c_void, bytes: usize, at: i64) -> isize {
    let bytes = match calls::count_call("pread", false) {
        None => bytes,
        Some(Fault::EndOfFile) => return 0,
        Some(fault @ (Fault::Short | Fault::Trickle)) => {
            // SAFETY: only reads the flags of a descriptor.
            let flags = unsafe { fcntl(descriptor, F_GETFL) };
            bytes.min(if flags & O_DIRECT != 0 { DIRECT_BLOCK } else { given(fault) })
        }
        Some(fault) => return failed(fault),
    };
    let real = real!(c"pread" as Pread);
    // SAFETY: the caller's own arguments, with a smaller size.
    unsafe { real(descriptor, out, bytes, at) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Iovec {
    base: *mut c_void,
    bytes: usize,
}

type Preadv2 = unsafe extern "C" fn(c_int, *const Iovec, c_int, i64, c_int) -> isize;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn preadv2(
    descriptor: c_int,
    pieces: *const Iovec,
    count: c_int,
    at: i64,
    flags: c_int,
) -> isize {
    let real = real!(c"preadv2" as Preadv2);
    match calls::count_call("preadv2", false) {
        // SAFETY: the caller's own arguments.
        None => unsafe { real(descriptor, pieces, count, at, flags) },
        Some(Fault::EndOfFile) => 0,
        Some(fault @ (Fault::Short | Fault::Trickle)) => {
            // SAFETY: the caller passes at least one piece.
            let Iovec { base, bytes } = unsafe { *pieces };
            let first_bytes = Iovec { base, bytes: bytes.min(given(fault)) };
            // SAFETY: a part of the caller's first piece.
            unsafe { real(descriptor, &raw const first_bytes, 1, at, flags) }
        }
        Some(fault) => failed(fault),
    }
}

type Open = unsafe extern "C" fn(*const c_char, c_int, c_uint) -> c_int;

// SAFETY: the C library's function takes `mode` as a variable argument, which is passed in the same way,
// and reads it under the same condition.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if let Some(fault) = calls::count_call("open", false) {
        return failed(fault) as c_int;
    }
    let real = real!(c"open" as Open);
    // SAFETY: the caller's own arguments.
    unsafe { real(path, flags, mode) }
}

type Mmap = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    wanted: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    if let Some(fault) = calls::count_call("mmap", false) {
        failed(fault);
        return MAP_FAILED;
    }
    let real = real!(c"mmap" as Mmap);
    // SAFETY: the caller's own arguments.
    let memory = unsafe { real(wanted, bytes, protection, flags, descriptor, offset) };
    if memory != MAP_FAILED {
        calls::created(Resource::Mapping, memory.addr());
    }
    memory
}

type Munmap = unsafe extern "C" fn(*mut c_void, usize) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(memory: *mut c_void, bytes: usize) -> c_int {
    calls::released(Resource::Mapping, memory.addr());
    let real = real!(c"munmap" as Munmap);
    // SAFETY: the caller's own arguments.
    unsafe { real(memory, bytes) }
}

type MemfdCreate = unsafe extern "C" fn(*const c_char, c_uint) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    if let Some(fault) = calls::count_call("memfd_create", false) {
        return failed(fault) as c_int;
    }
    let real = real!(c"memfd_create" as MemfdCreate);
    // SAFETY: the caller's own arguments.
    unsafe { real(name, flags) }
}

type Ftruncate = unsafe extern "C" fn(c_int, i64) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(descriptor: c_int, bytes: i64) -> c_int {
    if let Some(fault) = calls::count_call("ftruncate", false) {
        return failed(fault) as c_int;
    }
    let real = real!(c"ftruncate" as Ftruncate);
    // SAFETY: the caller's own arguments.
    unsafe { real(descriptor, bytes) }
}

type Madvise = unsafe extern "C" fn(*mut c_void, usize, c_int) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(memory: *mut c_void, bytes: usize, advice: c_int) -> c_int {
    if let Some(fault) = calls::count_call("madvise", false) {
        return failed(fault) as c_int;
    }
    let real = real!(c"madvise" as Madvise);
    // SAFETY: the caller's own arguments.
    unsafe { real(memory, bytes, advice) }
}

type PosixMemalign = unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(
    out: *mut *mut c_void,
    alignment: usize,
    bytes: usize,
) -> c_int {
    if let Some(Fault::Status(status)) = calls::count_call("posix_memalign", false) {
        return status;
    }
    let real = real!(c"posix_memalign" as PosixMemalign);
    // SAFETY: the caller's own arguments.
    unsafe { real(out, alignment, bytes) }
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(*mut usize, *const c_void, Start, *mut c_void) -> c_int;

/// The function and the argument of a watched thread.
struct Started {
    start: Start,
    argument: *mut c_void,
}

extern "C" fn start_watched(started: *mut c_void) -> *mut c_void {
    // SAFETY: pthread_create() below leaked it for this call alone.
    let Started { start, argument } = *unsafe { Box::from_raw(started.cast::<Started>()) };
    calls::watch(true);
    start(argument)
}

// SAFETY: as for pread. Threads that a watched thread starts are watched, too.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    out: *mut usize,
    attributes: *const c_void,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let real = real!(c"pthread_create" as PthreadCreate);
    if !calls::is_watched() {
        // SAFETY: the caller's own arguments.
        return unsafe { real(out, attributes, start, argument) };
    }
    if let Some(Fault::Status(status)) = calls::count_call("pthread_create", false) {
        return status;
    }
    let started = Box::into_raw(Box::new(Started { start, argument }));
    // SAFETY: the caller's own arguments, passed through one more function.
    let status = unsafe { real(out, attributes, start_watched, started.cast()) };
    if status == 0 {
        // SAFETY: a successful call has written the handle of the new thread.
        calls::created(Resource::Thread, unsafe { *out });
    } else {
        // SAFETY: leaked above, and no thread received it.
        drop(unsafe { Box::from_raw(started) });
    }
    status
}

type PthreadJoin = unsafe extern "C" fn(usize, *mut *mut c_void) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_join(thread: usize, result: *mut *mut c_void) -> c_int {
    let real = real!(c"pthread_join" as PthreadJoin);
    // SAFETY: the caller's own arguments.
    let status = unsafe { real(thread, result) };
    if status == 0 {
        calls::released(Resource::Thread, thread);
    }
    status
}

// The allocation functions of C++, which a program may replace, by their mangled names. All functions
// without an alignment are replaced: if one were missing, a sanitizer's version of it would not recognise
// memory from the others.

/// `operator new(std::size_t)`
// SAFETY: as C++ requires: returns memory or throws.
#[unsafe(export_name = "_Znwm")]
unsafe extern "C-unwind" fn new(bytes: usize) -> *mut c_void {
    // Preserve errno, as the real function does: callers allocate strings to describe failed calls.
    let errno = errno();
    let fault = calls::count_call("operator new", false);
    if fault == Some(Fault::ForeignException) {
        // SAFETY: throws a C++ exception through this frame, which may be unwound, into C++ code.
        unsafe { throw_logic_error(c"thrown by the fault matrix".as_ptr()) };
    }
    // SAFETY: allocates at least one byte.
    let memory = unsafe { if fault.is_some() { null_mut() } else { malloc(bytes.max(1)) } };
    if memory.is_null() {
        // SAFETY: throws a C++ exception through this frame, which may be unwound, into C++ code.
        unsafe { throw_bad_alloc() };
    }
    calls::created(Resource::HostAllocation, memory.addr());
    set_errno(errno);
    memory
}

/// `operator new[](std::size_t)`
// SAFETY: as above.
#[unsafe(export_name = "_Znam")]
unsafe extern "C-unwind" fn new_array(bytes: usize) -> *mut c_void {
    // SAFETY: as above.
    unsafe { new(bytes) }
}

/// `operator delete(void*)`
// SAFETY: as C++ requires.
#[unsafe(export_name = "_ZdlPv")]
unsafe extern "C" fn delete(memory: *mut c_void) {
    let errno = errno();
    calls::released(Resource::HostAllocation, memory.addr());
    // SAFETY: the memory is from malloc() above, or from the C library through an aligned `operator new`.
    unsafe { free(memory) };
    set_errno(errno);
}

/// `operator delete(void*, std::size_t)`
// SAFETY: as above.
#[unsafe(export_name = "_ZdlPvm")]
unsafe extern "C" fn delete_sized(memory: *mut c_void, _bytes: usize) {
    // SAFETY: as above.
    unsafe { delete(memory) };
}

/// `operator delete[](void*)`
// SAFETY: as above.
#[unsafe(export_name = "_ZdaPv")]
unsafe extern "C" fn delete_array(memory: *mut c_void) {
    // SAFETY: as above.
    unsafe { delete(memory) };
}

/// `operator delete[](void*, std::size_t)`
// SAFETY: as above.
#[unsafe(export_name = "_ZdaPvm")]
unsafe extern "C" fn delete_array_sized(memory: *mut c_void, _bytes: usize) {
    // SAFETY: as above.
    unsafe { delete(memory) };
}

/// Sets `errno` for the fault. Returns the result that most functions of the C library return on failure.
fn failed(fault: Fault) -> isize {
    if let Fault::Status(status) = fault {
        set_errno(status);
    }
    -1
}

/// Returns the most bytes that a read returns with this fault.
fn given(fault: Fault) -> usize {
    const TRICKLE: usize = 997;
    if matches!(fault, Fault::Trickle) { TRICKLE } else { 1 }
}

/// Functions that are called only for shareable memory of the host.
pub(crate) const OF_HOST_MEMORY: [&str; 2] = ["ftruncate", "memfd_create"];

/// Returns the table of faults in this file, with the permitted results.
pub(crate) fn rows() -> Vec<Row> {
    use ErrorCode::{DeviceFailure, FileTruncated, HostOutOfMemory, Internal, Io, OutOfMemory};
    use Fault::{BadAlloc, EndOfFile, ForeignException, Short, Status, Trickle};
    use Reach::{Once, Onwards};
    let row = |call, fault, reach, outcome| Row { call, fault, reach, outcome };
    vec![
        // The engine probes direct reads, and does not use them if the probe fails.
        row("pread", Status(EIO), Once, |_| Outcome { success: Success::OtherIo, codes: &[Io] }),
        row("pread", Status(EIO), Onwards, |_| fails(&[Io])),
        row("pread", Status(EINTR), Once, succeeds),
        row("pread", Short, Once, succeeds),
        row("pread", Trickle, Onwards, succeeds),
        // A direct read may reach past the end of the file. There, the end of file is no error.
        row("pread", EndOfFile, Once, |_| may_fail(&[FileTruncated])),
        row("preadv2", Status(EIO), Once, succeeds),
        row("preadv2", Status(EINTR), Once, succeeds),
        row("preadv2", Status(EAGAIN), Once, succeeds),
        row("preadv2", Status(EOPNOTSUPP), Onwards, succeeds),
        row("preadv2", Short, Once, succeeds),
        row("preadv2", Trickle, Onwards, succeeds),
        row("preadv2", EndOfFile, Once, succeeds),
        row("open", Status(EINVAL), Once, succeeds),
        row("open", Status(EINVAL), Onwards, succeeds),
        row("open", Status(EMFILE), Once, succeeds),
        row("posix_memalign", Status(ENOMEM), Once, succeeds),
        row("mmap", Status(ENOMEM), Once, |stage| match stage {
            Stage::Ring => fails(&[HostOutOfMemory]),
            Stage::Allocate => fails(&[OutOfMemory]),
            // The second code is that of a mapping that cannot become read-only.
            Stage::Share => fails(&[OutOfMemory, DeviceFailure]),
            // The mapping of a file, or the tallies. Without the mapping that only queries the page cache,
            // the load succeeds.
            _ => may_fail(&[HostOutOfMemory, OutOfMemory]),
        }),
        row("memfd_create", Status(EMFILE), Once, |_| fails(&[OutOfMemory])),
        row("ftruncate", Status(ENOMEM), Once, |_| fails(&[OutOfMemory])),
        row("ftruncate", Status(ENOMEM), Onwards, |_| fails(&[OutOfMemory])),
        row("madvise", Status(EINVAL), Once, succeeds),
        row("madvise", Status(EINVAL), Onwards, succeeds),
        // Without helper threads, one thread populates the ring. With one reader less, the others read.
        row("pthread_create", Status(EAGAIN), Once, succeeds),
        row("pthread_create", Status(EAGAIN), Onwards, |stage| match stage {
            Stage::Ring => fails(&[HostOutOfMemory]),
            _ => may_fail(&[HostOutOfMemory]),
        }),
        row("operator new", BadAlloc, Once, |stage| match stage {
            // Without helper threads, one thread populates the ring.
            Stage::Ring => may_fail(&[HostOutOfMemory]),
            _ => fails(&[HostOutOfMemory]),
        }),
        row("operator new", BadAlloc, Onwards, |_| fails(&[HostOutOfMemory])),
        // An exception of a foreign type must cross the bridge as an error, too.
        row("operator new", ForeignException, Once, |stage| match stage {
            Stage::Ring => may_fail(&[Internal]),
            _ => fails(&[Internal]),
        }),
    ]
}
