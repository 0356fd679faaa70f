//! Wrappers of functions. They count the calls and make planned calls fail.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const EAGAIN: c_int = 11;
const RTLD_NEXT: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);

/// A wrapped function.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    made: AtomicU64,
    /// The number of the call that fails, from 1. 0 if no call fails.
    fails_at: AtomicU64,
    /// Whether all later calls fail as well.
    onwards: AtomicBool,
}

impl Call {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            made: AtomicU64::new(0),
            fails_at: AtomicU64::new(0),
            onwards: AtomicBool::new(false),
        }
    }

    /// Returns the number of calls so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Makes the call with this number fail. If `onwards` is set, all later calls fail as well.
    pub(crate) fn fail_at(&self, number: u64, onwards: bool) {
        self.onwards.store(onwards, Ordering::Relaxed);
        self.fails_at.store(number, Ordering::Relaxed);
    }

    /// Counts a call. Returns whether it must fail.
    fn fails(&self) -> bool {
        let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let at = self.fails_at.load(Ordering::Relaxed);
        number == at || (at != 0 && number > at && self.onwards.load(Ordering::Relaxed))
    }
}

pub(crate) static THREAD: Call = Call::new("pthread_create");
pub(crate) static PROCESS: Call = Call::new("posix_spawnp");
pub(crate) static ALLOCATION: Call = Call::new("allocation");

pub(crate) static CALLS: [&Call; 3] = [&THREAD, &PROCESS, &ALLOCATION];

/// The system's allocator with planned failures.
pub(crate) struct Refusing;

// SAFETY: every call either goes to the system's allocator with the caller's own arguments, or returns a
// null pointer. The system's allocator keeps the contract, and the contract allows a null pointer.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ALLOCATION.fails() {
            return null_mut();
        }
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract; all memory of this allocator comes from the system's.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if ALLOCATION.fails() {
            return null_mut();
        }
        // SAFETY: see `dealloc`.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Returns the address of the next function with this name after the one that this program defines.
fn real(name: &CStr) -> usize {
    // SAFETY: this only looks up a name, and the name is a C string.
    let address = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) };
    if address.is_null() {
        std::process::abort();
    }
    address.expose_provenance()
}

/// Expands to the real function, as a function pointer of the same type as the wrapper.
macro_rules! real {
    ($name:literal as $type:ty) => {{
        static ADDRESS: OnceLock<usize> = OnceLock::new();
        let address = *ADDRESS.get_or_init(|| real($name));
        // SAFETY: the C library's function with this name has this type.
        unsafe {
            std::mem::transmute::<*const c_void, $type>(std::ptr::with_exposed_provenance(address))
        }
    }};
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(*mut usize, *const c_void, Start, *mut c_void) -> c_int;

// SAFETY: the signature is that of the C library. A failure looks the same as when the library cannot
// start a thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    out: *mut usize,
    attributes: *const c_void,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    if THREAD.fails() {
        return EAGAIN;
    }
    let real = real!(c"pthread_create" as PthreadCreate);
    // SAFETY: these are the caller's own arguments.
    unsafe { real(out, attributes, start, argument) }
}

type Words = *const *mut c_char;
type PosixSpawnp = unsafe extern "C" fn(
    *mut c_int,
    *const c_char,
    *const c_void,
    *const c_void,
    Words,
    Words,
) -> c_int;

// SAFETY: as for threads, but for processes.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawnp(
    out: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Words,
    environment: Words,
) -> c_int {
    if PROCESS.fails() {
        return EAGAIN;
    }
    let real = real!(c"posix_spawnp" as PosixSpawnp);
    // SAFETY: these are the caller's own arguments.
    unsafe { real(out, file, actions, attributes, arguments, environment) }
}
