//! Every GPU of the machine, one or several. Fails where there is none. A program of its own, because
//! it asks on which GPUs its process has a context.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "other targets use the rest")]
mod common;

use common::{go_on, model_path};
use loader::{DeviceChoice, DeviceKind, LoadOptions, LoadedModel, Loader, Verify};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Barrier;

const MODEL: &str = "fused-k-quants.gguf";

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
const RTLD_NOW: c_int = 2;

type PrimaryState = unsafe extern "C" fn(c_int, *mut c_uint, *mut c_int) -> c_int;
type Current = unsafe extern "C" fn(*mut *mut c_void) -> c_int;

/// What the driver itself says.
struct Driver {
    primary_state: PrimaryState,
    current: Current,
}

impl Driver {
    fn open() -> Self {
        // SAFETY: a NUL-terminated name; the driver's library has been loaded by the runtime before.
        let library = unsafe { dlopen(c"libcuda.so.1".as_ptr(), RTLD_NOW) };
        assert!(!library.is_null());
        let find = |name: &CStr| {
            // SAFETY: an open library and a NUL-terminated name.
            let function = unsafe { dlsym(library, name.as_ptr()) };
            assert!(!function.is_null(), "{name:?}");
            function
        };
        let primary_state = find(c"cuDevicePrimaryCtxGetState");
        let current = find(c"cuCtxGetCurrent");
        Self {
            // SAFETY: the signature that the driver's documentation gives this function.
            primary_state: unsafe {
                std::mem::transmute::<*mut c_void, PrimaryState>(primary_state)
            },
            // SAFETY: likewise.
            current: unsafe { std::mem::transmute::<*mut c_void, Current>(current) },
        }
    }

    fn has_context(&self, ordinal: i32) -> bool {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: both are written, and nothing else.
        let status = unsafe { (self.primary_state)(ordinal, &raw mut flags, &raw mut active) };
        assert_eq!(status, 0);
        active != 0
    }

    /// Null where the calling thread has none.
    fn current_context(&self) -> *mut c_void {
        let mut context = std::ptr::null_mut();
        // SAFETY: it is written, and nothing else.
        assert_eq!(unsafe { (self.current)(&raw mut context) }, 0);
        context
    }
}

fn gpus() -> i32 {
    let gpus = i32::try_from(cuda_sys::cuda_devices().unwrap().len()).unwrap();
    assert!(gpus > 0, "this test needs a GPU");
    gpus
}

fn load(ordinal: i32) -> LoadedModel {
    let options = LoadOptions::new().device(DeviceChoice::Cuda(ordinal)).verify(Verify::Readback);
    let model = Loader::new(options).load(model_path(MODEL), &mut go_on).unwrap();
    assert_eq!(model.device(), DeviceKind::Cuda(ordinal));
    model
}

/// In this order, since contexts stay.
#[test]
fn each_gpu_is_used_alone_and_all_of_them_at_once() {
    let (gpus, driver) = (gpus(), Driver::open());
    for ordinal in (0..gpus).rev() {
        let model = load(ordinal);
        model.fingerprint().unwrap();
        drop(model);
        for other in 0..ordinal {
            assert!(!driver.has_context(other), "a load to cuda:{ordinal} took cuda:{other}");
        }
        assert!(driver.current_context().is_null(), "the thread was left with a context");
    }

    const LOADERS_OF_GPU: i32 = 2;
    let want = load(0).fingerprint().unwrap();
    let resident = Barrier::new(usize::try_from(gpus * LOADERS_OF_GPU).unwrap());
    std::thread::scope(|scope| {
        for number in 0..gpus * LOADERS_OF_GPU {
            let (want, resident) = (&want, &resident);
            scope.spawn(move || {
                for _ in 0..3 {
                    let model = load(number % gpus);
                    assert!(model.fingerprint().unwrap() == *want);
                    // All of them at once.
                    resident.wait();
                }
            });
        }
    });
    println!("{gpus} GPU(s)");
}
