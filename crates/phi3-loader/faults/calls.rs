//! Wrappers of the functions that can be made to fail. They count calls and fail the planned ones.

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
    /// From 1; 0 for none.
    fails_at: AtomicU64,
    /// Whether all later ones fail as well.
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

    /// Calls until now.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Has the call of this number fail, and all after it where `onwards` is set.
    pub(crate) fn fail_at(&self, number: u64, onwards: bool) {
        self.onwards.store(onwards, Ordering::Relaxed);
        self.fails_at.store(number, Ordering::Relaxed);
    }

    /// Counts a call; whether it is to fail.
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

/// The system's allocator, which fails planned calls.
pub(crate) struct Refusing;

// SAFETY: every call goes to the system's allocator, which keeps the contract, with the caller's own
// arguments, or gives nothing, which the contract allows.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ALLOCATION.fails() {
            return null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; all memory of this allocator is the system's.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if ALLOCATION.fails() {
            return null_mut();
        }
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
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

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(*mut usize, *const c_void, Start, *mut c_void) -> c_int;

// SAFETY: of the C library's signature, and as it behaves where it starts no more threads.
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
    // SAFETY: the caller's own arguments.
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

// SAFETY: as above, for processes.
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
    // SAFETY: the caller's own arguments.
    unsafe { real(out, file, actions, attributes, arguments, environment) }
}
