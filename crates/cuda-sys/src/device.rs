//! Devices and the memory on them.

use crate::bridge::ffi;
use crate::device_buffer::{Access, DeviceBuffer};
use crate::error::{Error, ErrorCode};
use cxx::UniquePtr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The device to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The host's own memory. It is always available.
    Host,
    /// The NVIDIA GPU with this ordinal. The first visible GPU has the ordinal 0, as in the CUDA runtime, or the
    /// number that was given to [`number_gpus_from`].
    Cuda(i32),
}

impl DeviceKind {
    /// Decodes the number of the C++ `DeviceKind`.
    pub(crate) fn from_parts(kind: u32, ordinal: i32) -> Result<Self, Error> {
        match kind {
            0 => Ok(Self::Host),
            1 => Ok(Self::Cuda(numbered(ordinal))),
            _ => Err(unknown("kind of device", kind)),
        }
    }
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// The limit that decides how much memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryBound {
    /// The device's own memory. On the host, the memory that the machine has available.
    Device,
    /// On the host, a memory cgroup of the process.
    Cgroup,
    /// On the host, the process's limit on its address space (`ulimit -v`).
    AddressSpace,
    /// On the host, the process's limit on its data (`ulimit -d`).
    Data,
}

/// Names the limit of the host's memory in messages.
impl std::fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Device => "the machine's memory",
            Self::Cgroup => "the memory cgroup",
            Self::AddressSpace => "RLIMIT_AS",
            Self::Data => "RLIMIT_DATA",
        })
    }
}

/// Free and total memory of a device, in bytes. For a GPU, the driver reports them. For the host, they
/// are the lowest of what the machine, the process's memory cgroups and its limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryInfo {
    /// Bytes that can be allocated now.
    pub free: u64,
    /// All bytes, free or not.
    pub total: u64,
    /// The limit that decides `free`.
    pub bound: MemoryBound,
}

impl MemoryInfo {
    /// Returns the same figures with other free bytes, at most [`total`](Self::total).
    #[must_use]
    pub fn with_free(self, free: u64) -> Self {
        Self { free: free.min(self.total), ..self }
    }

    /// Decodes the number of the C++ `MemoryBound`. `None` if the figures are unknown.
    pub(crate) fn from_ffi(memory: &ffi::Memory) -> Result<Option<Self>, Error> {
        let bound = match memory.bound {
            0 => MemoryBound::Device,
            1 => MemoryBound::Cgroup,
            2 => MemoryBound::AddressSpace,
            3 => MemoryBound::Data,
            number => return Err(unknown("limit of memory", number)),
        };
        let info = Self { free: memory.free_bytes, total: memory.total_bytes, bound };
        Ok(memory.known.then_some(info))
    }
}

/// The error for a number of the C++ side that this side does not know.
fn unknown(what: &str, number: u32) -> Error {
    Error::new(ErrorCode::Internal, format!("the engine reports an unknown {what}: {number}"))
}

/// A GPU that the CUDA runtime sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaDeviceInfo {
    /// The ordinal for [`DeviceKind::Cuda`].
    pub ordinal: i32,
    /// The vendor's name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// The PCI address as `domain:bus:device.function`.
    pub pci_bus_id: String,
    /// The text of [`Device::identity`].
    pub identity: String,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Total memory in bytes.
    pub total_bytes: u64,
}

/// Whether this build supports CUDA devices.
pub fn cuda_compiled() -> bool {
    ffi::cuda_compiled()
}

/// How the CUDA code of this build was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaBuild {
    /// The release of nvcc, such as `12.9`.
    pub toolkit: &'static str,
    /// The targets, such as `sm_80 sm_90 compute_90`: machine code of these architectures, and PTX for later ones.
    pub architectures: &'static str,
}

/// Returns how the CUDA code of this build was compiled; `None` in a build without CUDA.
pub fn cuda_build() -> Option<CudaBuild> {
    let toolkit = option_env!("CUDA_SYS_BUILT_WITH")?;
    Some(CudaBuild { toolkit, architectures: option_env!("CUDA_SYS_BUILT_FOR")? })
}

/// The visible GPUs in ordinal order. In a build without CUDA, the list is empty. Creates no context.
///
/// # Errors
///
/// [`DeviceUnavailable`](crate::ErrorCode::DeviceUnavailable) if there is no usable driver.
pub fn cuda_devices() -> Result<Vec<CudaDeviceInfo>, Error> {
    let devices = ffi::cuda_devices()?;
    Ok(devices
        .into_iter()
        .map(|info| CudaDeviceInfo {
            ordinal: numbered(info.ordinal),
            name: info.name,
            pci_bus_id: info.pci_bus_id,
            identity: info.identity,
            compute_capability: (info.compute_major, info.compute_minor),
            total_bytes: info.total_bytes,
        })
        .collect())
}

/// The ordinal of the first visible GPU.
static FIRST_GPU: AtomicI32 = AtomicI32::new(0);

/// Makes `first` the ordinal of the first visible GPU in this process, instead of 0.
///
/// A program that hides GPUs from the driver (`CUDA_VISIBLE_DEVICES`) can call this, so that its messages have the
/// ordinals of its user, who counts all GPUs. Call it before any device is opened. CUDA itself still counts from 0, so a
/// program that passes ordinals to other code must not call this.
pub fn number_gpus_from(first: i32) {
    FIRST_GPU.store(first, Ordering::Relaxed);
}

/// Converts an ordinal of the CUDA runtime to the one that callers see.
fn numbered(ordinal: i32) -> i32 {
    ordinal.wrapping_add(FIRST_GPU.load(Ordering::Relaxed))
}

/// An open device.
pub struct Device {
    inner: UniquePtr<ffi::Device>,
    kind: DeviceKind,
}

impl Device {
    /// Opens a device. For a GPU this creates the primary context, which takes several hundred
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`DeviceUnavailable`](crate::ErrorCode::DeviceUnavailable) if there is no such device, no usable
    /// driver, or no CUDA in this build.
    pub fn open(kind: DeviceKind) -> Result<Self, Error> {
        let inner = match kind {
            DeviceKind::Host => ffi::open_host()?,
            DeviceKind::Cuda(ordinal) => {
                ffi::open_cuda(ordinal, FIRST_GPU.load(Ordering::Relaxed))?
            }
        };
        Self::from_ffi(inner)
    }

    /// The device that was opened.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The name of the device, for people.
    ///
    /// # Errors
    ///
    /// Fails only if the host has no memory left.
    pub fn name(&self) -> Result<String, Error> {
        Ok(self.inner.name()?)
    }

    /// The current free and total memory. `None` if the system does not report it, for example a host
    /// without `/proc`.
    ///
    /// # Errors
    ///
    /// [`DeviceFailure`](crate::ErrorCode::DeviceFailure) if the driver does not answer.
    pub fn memory(&self) -> Result<Option<MemoryInfo>, Error> {
        MemoryInfo::from_ffi(&self.inner.memory()?)
    }

    /// Allocates `bytes` of device memory in one piece. Its content is unspecified.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorCode::OutOfMemory) if the device does not have enough memory. On the
    /// host, also if `bytes` is more than [`memory`](Self::memory) reports as free.
    pub fn allocate(&self, bytes: u64) -> Result<DeviceBuffer, Error> {
        Ok(DeviceBuffer::new(ffi::allocate(&self.inner, bytes)?, self.kind))
    }

    /// A text that no other device of this machine has: `GPU-` and the UUID of a GPU, or `host`. It stays the same
    /// if the machine starts again, or if some devices are hidden.
    ///
    /// # Errors
    ///
    /// Fails only if the host has no memory left.
    pub fn identity(&self) -> Result<String, Error> {
        Ok(self.inner.identity()?)
    }

    /// Allocates memory that can be [shared](DeviceBuffer::share), [protected](DeviceBuffer::protect) and
    /// [resized](DeviceBuffer::resize). A GPU rounds it up to its granularity, usually 2 MiB. On the host it is a file in
    /// memory (memfd).
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate).
    pub fn allocate_shareable(&self, bytes: u64) -> Result<DeviceBuffer, Error> {
        Ok(DeviceBuffer::new(ffi::allocate_shareable(&self.inner, bytes)?, self.kind))
    }

    /// Maps the memory that a buffer of this device has [shared](DeviceBuffer::share), perhaps in a process that has
    /// ended. `bytes` is the size of that buffer. The descriptors may be closed afterwards.
    ///
    /// With [`Access::ReadOnly`], no code of this process can write to the memory. On the host, the memory must then be
    /// one that no process can write any more: its owner protected it before it shared it. On a GPU, other processes
    /// may have mapped it with write access: compare its [digests](DeviceBuffer::digests).
    ///
    /// # Errors
    ///
    /// [`ForeignMemory`](crate::ErrorCode::ForeignMemory) if the descriptors are something else, or memory of another
    /// device or size. [`DeviceFailure`](crate::ErrorCode::DeviceFailure) if the driver fails.
    pub fn import(
        &self,
        shares: &[(BorrowedFd<'_>, u64)],
        bytes: u64,
        access: Access,
    ) -> Result<DeviceBuffer, Error> {
        let share = |(descriptor, bytes): &(BorrowedFd<'_>, u64)| ffi::SharedMemory {
            descriptor: descriptor.as_raw_fd(),
            bytes: *bytes,
        };
        let shares: Vec<_> = shares.iter().map(share).collect();
        let writable = access == Access::ReadWrite;
        let inner = ffi::import_memory(&self.inner, &shares, bytes, writable)?;
        Ok(DeviceBuffer::new(inner, self.kind))
    }

    pub(crate) fn from_ffi(inner: UniquePtr<ffi::Device>) -> Result<Self, Error> {
        let kind = DeviceKind::from_parts(inner.kind(), inner.ordinal())?;
        Ok(Self { inner, kind })
    }

    pub(crate) fn as_ffi(&self) -> &ffi::Device {
        &self.inner
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Device").field(&self.kind()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_of_device_is_an_internal_error() {
        assert_eq!(DeviceKind::from_parts(0, 0), Ok(DeviceKind::Host));
        assert_eq!(DeviceKind::from_parts(1, 7), Ok(DeviceKind::Cuda(7)));
        for number in [2, u32::MAX] {
            let error = DeviceKind::from_parts(number, 0).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal);
            assert!(error.context().ends_with(&format!(": {number}")), "{error}");
        }
    }

    #[test]
    fn an_unknown_limit_of_memory_is_an_internal_error() {
        let memory = |bound| ffi::Memory { known: true, free_bytes: 1, total_bytes: 2, bound };
        let bounds = [
            MemoryBound::Device,
            MemoryBound::Cgroup,
            MemoryBound::AddressSpace,
            MemoryBound::Data,
        ];
        for (number, bound) in (0..).zip(bounds) {
            let info = MemoryInfo { free: 1, total: 2, bound };
            assert_eq!(MemoryInfo::from_ffi(&memory(number)), Ok(Some(info)));
        }
        let error = MemoryInfo::from_ffi(&memory(4)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Internal);
    }
}
