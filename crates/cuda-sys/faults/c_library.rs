//! Functions of the C and C++ libraries, in front of the real ones.
//!
//! A function that a program defines is the one that the program and its shared libraries call: the
//! engine's `pread`, and `pthread_create` and `operator new` inside libstdc++ too.

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

/// What a direct read that is cut short ends on.
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
    // SAFETY: has no conditions.
    let errno = unsafe { __errno_location() };
    // SAFETY: the address of this thread's own errno.
    unsafe { *errno }
}

fn set_errno(value: i32) {
    // SAFETY: has no conditions.
    let errno = unsafe { __errno_location() };
    // SAFETY: the address of this thread's own errno.
    unsafe { *errno = value };
}

/// The function of this name that comes after this program's own.
fn real(name: &CStr) -> usize {
    // SAFETY: looks a name up, and the name is a C string.
    let address = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) };
    if address.is_null() {
        std::process::abort();
    }
    address.expose_provenance()
}

/// The real function as a function pointer of the type that the interposed one has.
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

// SAFETY: of the C library's signature, and as it behaves but for planned faults.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread(descriptor: c_int, out: *mut c_void, bytes: usize, at: i64) -> isize {
    let bytes = match calls::entered("pread", false) {
        None => bytes,
        Some(Fault::EndOfFile) => return 0,
        Some(fault @ (Fault::Short | Fault::Trickle)) => {
            // SAFETY: asks for the flags of a descriptor.
            let flags = unsafe { fcntl(descriptor, F_GETFL) };
            bytes.min(if flags & O_DIRECT != 0 { DIRECT_BLOCK } else { given(fault) })
        }
        Some(fault) => return failed(fault),
    };
    let real = real!(c"pread" as Pread);
    // SAFETY: the caller's own arguments, but for a smaller size.
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
    match calls::entered("preadv2", false) {
        // SAFETY: the caller's own arguments.
        None => unsafe { real(descriptor, pieces, count, at, flags) },
        Some(Fault::EndOfFile) => 0,
        Some(fault @ (Fault::Short | Fault::Trickle)) => {
            // SAFETY: the caller gives at least one piece.
            let Iovec { base, bytes } = unsafe { *pieces };
            let first_bytes = Iovec { base, bytes: bytes.min(given(fault)) };
            // SAFETY: a part of the first of the caller's pieces.
            unsafe { real(descriptor, &raw const first_bytes, 1, at, flags) }
        }
        Some(fault) => failed(fault),
    }
}

type Open = unsafe extern "C" fn(*const c_char, c_int, c_uint) -> c_int;

// SAFETY: the C library's function takes `mode` as a variable argument, which is passed in the same
// way, and looks at it under the same condition.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if let Some(fault) = calls::entered("open", false) {
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
    if let Some(fault) = calls::entered("mmap", false) {
        failed(fault);
        return MAP_FAILED;
    }
    let real = real!(c"mmap" as Mmap);
    // SAFETY: the caller's own arguments.
    let memory = unsafe { real(wanted, bytes, protection, flags, descriptor, offset) };
    if memory != MAP_FAILED {
        calls::born(Resource::Mapping, memory.addr());
    }
    memory
}

type Munmap = unsafe extern "C" fn(*mut c_void, usize) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(memory: *mut c_void, bytes: usize) -> c_int {
    calls::gone(Resource::Mapping, memory.addr());
    let real = real!(c"munmap" as Munmap);
    // SAFETY: the caller's own arguments.
    unsafe { real(memory, bytes) }
}

type Madvise = unsafe extern "C" fn(*mut c_void, usize, c_int) -> c_int;

// SAFETY: as for pread.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(memory: *mut c_void, bytes: usize, advice: c_int) -> c_int {
    if let Some(fault) = calls::entered("madvise", false) {
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
    if let Some(Fault::Status(status)) = calls::entered("posix_memalign", false) {
        return status;
    }
    let real = real!(c"posix_memalign" as PosixMemalign);
    // SAFETY: the caller's own arguments.
    unsafe { real(out, alignment, bytes) }
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(*mut usize, *const c_void, Start, *mut c_void) -> c_int;

/// A watched thread's own function and argument.
struct Started {
    start: Start,
    argument: *mut c_void,
}

extern "C" fn start_watched(started: *mut c_void) -> *mut c_void {
    // SAFETY: pthread_create below leaked it, for this call alone.
    let Started { start, argument } = *unsafe { Box::from_raw(started.cast::<Started>()) };
    calls::watch(true);
    start(argument)
}

// SAFETY: as for pread; a thread that a watched one starts is watched.
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
    if let Some(Fault::Status(status)) = calls::entered("pthread_create", false) {
        return status;
    }
    let started = Box::into_raw(Box::new(Started { start, argument }));
    // SAFETY: the caller's own arguments, carried around one function.
    let status = unsafe { real(out, attributes, start_watched, started.cast()) };
    if status == 0 {
        // SAFETY: a successful call has written the new thread's handle.
        calls::born(Resource::Thread, unsafe { *out });
    } else {
        // SAFETY: leaked above, and no thread has it.
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
        calls::gone(Resource::Thread, thread);
    }
    status
}

// The allocation functions of C++, which a program may replace, by their mangled names. All that no
// alignment is asked of, since the one that sanitizers bring for each would not know the others'
// memory.

/// `operator new(std::size_t)`
// SAFETY: as C++ defines it: memory, or an exception.
#[unsafe(export_name = "_Znwm")]
unsafe extern "C-unwind" fn new(bytes: usize) -> *mut c_void {
    // The real one leaves it alone, and callers describe failed calls with strings.
    let errno = errno();
    let fault = calls::entered("operator new", false);
    if fault == Some(Fault::ForeignException) {
        // SAFETY: throws a C++ exception through this frame, which may be unwound, to C++.
        unsafe { throw_logic_error(c"thrown by the fault matrix".as_ptr()) };
    }
    // SAFETY: an allocation of at least one byte.
    let memory = unsafe { if fault.is_some() { null_mut() } else { malloc(bytes.max(1)) } };
    if memory.is_null() {
        // SAFETY: throws a C++ exception through this frame, which may be unwound, to C++.
        unsafe { throw_bad_alloc() };
    }
    calls::born(Resource::HostAllocation, memory.addr());
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
// SAFETY: as C++ defines it.
#[unsafe(export_name = "_ZdlPv")]
unsafe extern "C" fn delete(memory: *mut c_void) {
    let errno = errno();
    calls::gone(Resource::HostAllocation, memory.addr());
    // SAFETY: from malloc above, or from the C library by way of an aligned `operator new`.
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

/// Sets `errno` as the fault says; what most functions of the C library then return.
fn failed(fault: Fault) -> isize {
    if let Fault::Status(status) = fault {
        set_errno(status);
    }
    -1
}

/// Bytes that a read gives at most.
fn given(fault: Fault) -> usize {
    const TRICKLE: usize = 997;
    if matches!(fault, Fault::Trickle) { TRICKLE } else { 1 }
}

/// What is made to fail here, and what may come of it.
pub(crate) fn rows() -> Vec<Row> {
    use ErrorCode::{FileTruncated, HostOutOfMemory, Internal, Io, OutOfMemory};
    use Fault::{BadAlloc, EndOfFile, ForeignException, Short, Status, Trickle};
    use Reach::{Once, Onwards};
    let row = |call, fault, reach, outcome| Row { call, fault, reach, outcome };
    vec![
        // Direct reading is probed, and given up where the probe fails.
        row("pread", Status(EIO), Once, |_| Outcome {
            success: Success::ReadingOtherwise,
            codes: &[Io],
        }),
        row("pread", Status(EIO), Onwards, |_| fails(&[Io])),
        row("pread", Status(EINTR), Once, succeeds),
        row("pread", Short, Once, succeeds),
        row("pread", Trickle, Onwards, succeeds),
        // Direct reads go on behind the end of the file, and find it.
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
            // The mapping of a file, or the tallies; what only asks about the page cache can do
            // without.
            _ => may_fail(&[HostOutOfMemory, OutOfMemory]),
        }),
        row("madvise", Status(EINVAL), Once, succeeds),
        row("madvise", Status(EINVAL), Onwards, succeeds),
        // Populating a ring goes without helpers, and reading with a reader less.
        row("pthread_create", Status(EAGAIN), Once, succeeds),
        row("pthread_create", Status(EAGAIN), Onwards, |stage| match stage {
            Stage::Ring => fails(&[HostOutOfMemory]),
            _ => may_fail(&[HostOutOfMemory]),
        }),
        row("operator new", BadAlloc, Once, |stage| match stage {
            // Without helpers, the ring is populated all the same.
            Stage::Ring => may_fail(&[HostOutOfMemory]),
            _ => fails(&[HostOutOfMemory]),
        }),
        row("operator new", BadAlloc, Onwards, |_| fails(&[HostOutOfMemory])),
        // What no code of ours throws must cross the bridge all the same.
        row("operator new", ForeignException, Once, |stage| match stage {
            Stage::Ring => may_fail(&[Internal]),
            _ => fails(&[Internal]),
        }),
    ]
}
