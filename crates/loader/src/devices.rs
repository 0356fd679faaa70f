//! The GPUs that a load can choose.

use crate::error::Error;
use cuda_sys::CudaDeviceInfo;

/// Returns the visible GPUs in the order of their ordinals. In a build without CUDA, the list is empty. Creates no
/// context.
///
/// # Errors
///
/// [`Error::Engine`] with the code `DEVICE_UNAVAILABLE` if there is no usable driver.
pub fn cuda_devices() -> Result<Vec<CudaDeviceInfo>, Error> {
    Ok(cuda_sys::cuda_devices()?)
}
