//! Weights that cudarc uses without owning them.

use std::error::Error;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, sys};
use loader::{SharedTensor, WeightElement};

/// A weight as a read-only [`CudaSlice`], without a copy. It keeps the model in memory and frees nothing
/// itself.
///
/// It gives shared references only: pass `&*lent` to a copy or as an argument of a kernel.
///
/// A drop waits for all work of the context, because the last loan may free the model. The events of cudarc
/// are not enough: a slice has one event for reads, and it records only the stream that read last.
pub(crate) struct Lent<T> {
    // `CudaSlice` would free the memory when it is dropped.
    slice: ManuallyDrop<CudaSlice<T>>,
    tensor: SharedTensor,
}

impl<T: WeightElement + DeviceRepr> Lent<T> {
    /// Lends a weight to the code that uses `stream`.
    ///
    /// # Errors
    ///
    /// If the elements are of another type, or are not in memory of the stream's context.
    pub(crate) fn new(
        tensor: SharedTensor,
        stream: &Arc<CudaStream>,
    ) -> Result<Self, Box<dyn Error>> {
        let ggml_type = tensor.format.ggml_type();
        if ggml_type != T::GGML_TYPE {
            return Err(format!("the weight is {ggml_type}, not {}", T::GGML_TYPE).into());
        }
        // `CudaContext::new` retains the primary context of a device, and the loader uses it through the CUDA
        // runtime. A context that the program created itself is another one.
        if context_of(tensor.address)? != stream.context().cu_ctx() {
            return Err("the weight and the stream are in different contexts".into());
        }
        let len = usize::try_from(tensor.bytes)? / size_of::<T>();
        // SAFETY: the address is that of `bytes` bytes in a live allocation, and the weights have this type.
        // They stay valid as long as `tensor`, which this value keeps. Nothing writes to them: this value
        // gives no mutable reference to the slice. `ManuallyDrop` keeps the slice from freeing the memory.
        let slice = unsafe { stream.upgrade_device_ptr(tensor.address, len) };
        Ok(Self { slice: ManuallyDrop::new(slice), tensor })
    }
}

impl<T> Lent<T> {
    /// Returns the weight: its address, shape and format.
    pub(crate) fn tensor(&self) -> &SharedTensor {
        &self.tensor
    }
}

impl<T> Deref for Lent<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.slice
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        let context = Arc::clone(self.slice.context());
        // SAFETY: the slice is taken once, here, and is not used later.
        let slice = unsafe { ManuallyDrop::take(&mut self.slice) };
        // Drops the events and the stream of the slice, but not the memory.
        slice.leak();
        // The tensor is dropped after this. `CudaContext::check_err` returns an error of the wait.
        context.record_err(context.synchronize());
    }
}

/// Returns the context of an allocation.
fn context_of(address: u64) -> Result<sys::CUcontext, Box<dyn Error>> {
    let mut context: sys::CUcontext = std::ptr::null_mut();
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT;
    let result = (&raw mut context).cast::<c_void>();
    // SAFETY: this attribute is a `CUcontext`, and `result` points to one. The driver checks the address and
    // does not follow it.
    unsafe { sys::cuPointerGetAttribute(result, attribute, address) }.result()?;
    Ok(context)
}
