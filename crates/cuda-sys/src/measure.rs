//! Measures the highest rates of a device. Loads are compared with them.
//!
//! Every function warms up once and then measures `runs` times. Rates are in bytes per second.

use crate::bridge::ffi;
use crate::device::Device;
use crate::error::Error;

/// Rates of several runs, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rate {
    /// The median of the runs.
    pub median: f64,
    /// The rate of the slowest run.
    pub min: f64,
    /// The rate of the fastest run.
    pub max: f64,
}

impl From<ffi::Rate> for Rate {
    fn from(rate: ffi::Rate) -> Self {
        Self { median: rate.median, min: rate.minimum, max: rate.maximum }
    }
}

/// The parameters of [`upload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadShape {
    /// Bytes of each copy.
    pub chunk_bytes: u64,
    /// The number of queues to the device.
    pub streams: u32,
    /// The number of staging slots of each queue. This number of copies can run at the same time.
    pub depth: u32,
    /// Bytes that one run copies. It needs the same number of bytes of device memory.
    pub total_bytes: u64,
}

/// Measures copies from pinned host memory to the device. This is the highest rate that a load could
/// reach, if reading cost no time.
///
/// The staging ring is allocated and pinned in the same way as the engine's. One thread queues all
/// copies. The time is from its first call to the arrival of the last byte.
///
/// # Errors
///
/// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) for the host device, which has no such copies,
/// if a figure is zero, or if the number of bytes exceeds any memory;
/// [`DeviceFailure`](crate::ErrorCode::DeviceFailure) if memory cannot be pinned;
/// [`OutOfMemory`](crate::ErrorCode::OutOfMemory).
pub fn upload(device: &Device, shape: UploadShape, runs: u32) -> Result<Rate, Error> {
    let UploadShape { chunk_bytes, streams, depth, total_bytes } = shape;
    let shape = ffi::UploadShape { chunk_bytes, streams, depth, total_bytes };
    Ok(ffi::measure_upload(device.as_ffi(), &shape, runs)?.into())
}

/// Work of a device on bytes that it already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Copies the bytes. The rate counts bytes read and bytes written.
    Copy,
    /// Decodes blocks to f16 with the engine's decoder. The rate counts bytes read and bytes written.
    DecodeToF16 {
        /// One of [`decoders`](crate::decoders).
        ggml_type: u32,
    },
    /// Counts infinities and NaNs among f16 values. The rate counts bytes read.
    CountNonFinite,
    /// Digests the bytes. The rate counts bytes read.
    Digest,
    /// Copies the bytes to memory that was never written before. The operating system clears such memory
    /// during the copy. The rate counts bytes read and bytes written. Only on the host.
    CopyToNew,
}

/// The amount of [`work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkShape {
    /// The number of f16 values that are decoded, checked or copied. It must be a multiple of 256.
    pub elements: u64,
    /// The number of threads on the host. Each has this number of elements of its own. A GPU ignores it.
    pub threads: u32,
}

/// Measures the work of a device on bytes that it already holds.
///
/// On a GPU, a run is one launch of the engine's own kernel or one device-to-device copy, measured
/// between two events. On the host, it lasts from the moment when all threads are ready until the slowest
/// has ended. The bytes are random, without infinities and NaNs.
///
/// # Errors
///
/// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) for a type that cannot be decoded, for work
/// that the device does not support, if a figure is zero or not a whole number of blocks, or if the
/// number of bytes exceeds any memory; [`OutOfMemory`](crate::ErrorCode::OutOfMemory); and errors of the
/// device.
pub fn work(device: &Device, work: Work, shape: WorkShape, runs: u32) -> Result<Rate, Error> {
    let (number, ggml_type) = match work {
        Work::Copy => (0, 0),
        Work::DecodeToF16 { ggml_type } => (1, ggml_type),
        Work::CountNonFinite => (2, 0),
        Work::Digest => (3, 0),
        Work::CopyToNew => (4, 0),
    };
    let WorkShape { elements, threads } = shape;
    let shape = ffi::WorkShape { work: number, ggml_type, elements, threads };
    Ok(ffi::measure_work(device.as_ffi(), &shape, runs)?.into())
}
