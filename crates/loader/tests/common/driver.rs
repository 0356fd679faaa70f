//! Direct calls of the CUDA driver, for information that the runtime does not report.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
const RTLD_NOW: c_int = 2;

/// A function that a stream calls on the host. Its argument is the one given to
/// [`Driver::call_in_stream`].
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

type PrimaryState = unsafe extern "C" fn(c_int, *mut c_uint, *mut c_int) -> c_int;
type Current = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type PrimaryRetain = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
type SetCurrent = unsafe extern "C" fn(*mut c_void) -> c_int;
type StreamCreate = unsafe extern "C" fn(*mut *mut c_void, c_uint) -> c_int;
type LaunchHostFunc = unsafe extern "C" fn(*mut c_void, HostFunction, *mut c_void) -> c_int;

type ModuleLoadData = unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> c_int;
type ModuleGetFunction =
    unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int;
type LaunchKernel = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
type Synchronize = unsafe extern "C" fn() -> c_int;

const NON_BLOCKING: c_uint = 1;

/// A kernel that writes a number to an address.
const STORE: &CStr = c"
.version 7.0
.target sm_70
.address_size 64
.visible .entry store(.param .u64 address, .param .u32 value)
{
    .reg .b64 %address;
    .reg .b32 %value;
    ld.param.u64 %address, [address];
    ld.param.u32 %value, [value];
    st.global.u32 [%address], %value;
    ret;
}
";

/// The driver's functions, with the signatures in its documentation.
pub(crate) struct Driver {
    primary_state: PrimaryState,
    current: Current,
    primary_retain: PrimaryRetain,
    set_current: SetCurrent,
    stream_create: StreamCreate,
    launch_host_func: LaunchHostFunc,
    module_load_data: ModuleLoadData,
    module_get_function: ModuleGetFunction,
    launch_kernel: LaunchKernel,
    synchronize: Synchronize,
}

impl Driver {
    pub(crate) fn open() -> Self {
        // SAFETY: the name ends with NUL. The runtime has already loaded the driver's library.
        let library = unsafe { dlopen(c"libcuda.so.1".as_ptr(), RTLD_NOW) };
        assert!(!library.is_null());
        let find = |name: &CStr| {
            // SAFETY: the library is open and the name ends with NUL.
            let function = unsafe { dlsym(library, name.as_ptr()) };
            assert!(!function.is_null(), "{name:?}");
            function
        };
        macro_rules! function {
            ($name:literal as $signature:ty) => {
                // SAFETY: the driver's documentation gives this function this signature.
                unsafe { std::mem::transmute::<*mut c_void, $signature>(find($name)) }
            };
        }
        Self {
            primary_state: function!(c"cuDevicePrimaryCtxGetState" as PrimaryState),
            current: function!(c"cuCtxGetCurrent" as Current),
            primary_retain: function!(c"cuDevicePrimaryCtxRetain" as PrimaryRetain),
            set_current: function!(c"cuCtxSetCurrent" as SetCurrent),
            stream_create: function!(c"cuStreamCreate" as StreamCreate),
            launch_host_func: function!(c"cuLaunchHostFunc" as LaunchHostFunc),
            module_load_data: function!(c"cuModuleLoadData" as ModuleLoadData),
            module_get_function: function!(c"cuModuleGetFunction" as ModuleGetFunction),
            launch_kernel: function!(c"cuLaunchKernel" as LaunchKernel),
            synchronize: function!(c"cuCtxSynchronize" as Synchronize),
        }
    }

    pub(crate) fn has_context(&self, ordinal: i32) -> bool {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: the call writes only to the two variables.
        let status = unsafe { (self.primary_state)(ordinal, &raw mut flags, &raw mut active) };
        assert_eq!(status, 0);
        active != 0
    }

    /// Returns the current context of the calling thread; null if it has none.
    pub(crate) fn current_context(&self) -> *mut c_void {
        let mut context = std::ptr::null_mut();
        // SAFETY: the call writes only to the variable.
        assert_eq!(unsafe { (self.current)(&raw mut context) }, 0);
        context
    }

    /// Lets a kernel write a number to an address, and waits for it. Returns the driver's status. Leaves the device's
    /// context current in the calling thread.
    ///
    /// # Safety
    ///
    /// The address must be of memory that nothing else uses, or to which the device refuses to write.
    pub(crate) unsafe fn store(&self, ordinal: i32, mut address: u64, mut value: u32) -> c_int {
        let mut context = std::ptr::null_mut();
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the call writes only the context.
        assert_eq!(unsafe { (self.primary_retain)(&raw mut context, ordinal) }, 0);
        // SAFETY: the context is retained.
        assert_eq!(unsafe { (self.set_current)(context) }, 0);
        // SAFETY: the text is PTX and ends with NUL.
        let loaded = unsafe { (self.module_load_data)(&raw mut module, STORE.as_ptr().cast()) };
        assert_eq!(loaded, 0);
        // SAFETY: the module is loaded, and has this kernel.
        let found =
            unsafe { (self.module_get_function)(&raw mut function, module, c"store".as_ptr()) };
        assert_eq!(found, 0);
        let none = std::ptr::null_mut();
        let mut arguments = [(&raw mut address).cast(), (&raw mut value).cast::<c_void>()];
        let arguments = arguments.as_mut_ptr();
        let launch = self.launch_kernel;
        // SAFETY: the arguments are those of the kernel. The caller guarantees the address.
        let launched =
            unsafe { launch(function, 1, 1, 1, 1, 1, 1, 0, none, arguments, std::ptr::null_mut()) };
        assert_eq!(launched, 0);
        // SAFETY: the thread has a current context.
        unsafe { (self.synchronize)() }
    }

    /// Enqueues a call of `function` in a new stream of a device, and does not wait for the call. Leaves the
    /// device's context current in the calling thread, and never destroys the stream.
    ///
    /// # Safety
    ///
    /// `argument` must be valid for `function` until it returns.
    pub(crate) unsafe fn call_in_stream(
        &self,
        ordinal: i32,
        function: HostFunction,
        argument: *mut c_void,
    ) {
        let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the call writes only the context.
        assert_eq!(unsafe { (self.primary_retain)(&raw mut context, ordinal) }, 0);
        // SAFETY: the context is retained.
        assert_eq!(unsafe { (self.set_current)(context) }, 0);
        // SAFETY: the thread has a current context, and the call writes only the stream.
        assert_eq!(unsafe { (self.stream_create)(&raw mut stream, NON_BLOCKING) }, 0);
        // SAFETY: the stream belongs to the current context; the caller guarantees the rest.
        assert_eq!(unsafe { (self.launch_host_func)(stream, function, argument) }, 0);
    }
}
