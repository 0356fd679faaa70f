//! How fast a device can be at best: what a load's figures are held against.
//!
//! Every function warms up once and then measures `runs` times. Rates are in bytes a second.

use crate::bridge::ffi;
use crate::device::Device;
use crate::error::Error;

/// Bytes a second, of several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rate {
    /// The median of the runs.
    pub median: f64,
    /// The slowest of them.
    pub min: f64,
    /// The fastest of them.
    pub max: f64,
}

impl From<ffi::Rate> for Rate {
    fn from(rate: ffi::Rate) -> Self {
        Self { median: rate.median, min: rate.minimum, max: rate.maximum }
    }
}

/// How [`upload`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadShape {
    /// Bytes of each copy.
    pub chunk_bytes: u64,
    /// Queues to the device.
    pub streams: u32,
    /// Staging slots of each; so many copies can be under way.
    pub depth: u32,
    /// Bytes of a run, and of device memory that it takes.
    pub total_bytes: u64,
}

/// Measures copies from pinned host memory to the device: what a load could reach if its bytes cost
/// nothing to read.
///
/// The staging ring is made and pinned as the engine's own. One thread queues all copies; the time
/// is from its first call to the arrival of the last byte.
///
/// # Errors
///
/// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) for the host device, which takes no such
/// copies, where a figure is zero, and for more bytes than any memory holds;
/// [`DeviceFailure`](crate::ErrorCode::DeviceFailure) where
/// memory cannot be pinned; [`OutOfMemory`](crate::ErrorCode::OutOfMemory).
pub fn upload(device: &Device, shape: UploadShape, runs: u32) -> Result<Rate, Error> {
    let UploadShape { chunk_bytes, streams, depth, total_bytes } = shape;
    let shape = ffi::UploadShape { chunk_bytes, streams, depth, total_bytes };
    Ok(ffi::measure_upload(device.as_ffi(), &shape, runs)?.into())
}

/// What a device does with bytes that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Copies them. The rate counts bytes read and written.
    Copy,
    /// Decodes blocks to halves, with the engine's decoder. The rate counts bytes read and written.
    DecodeToF16 {
        /// One of [`decoders`](crate::decoders).
        ggml_type: u32,
    },
    /// Counts infinities and NaNs among halves. The rate counts bytes read.
    CountNonFinite,
    /// Digests them. The rate counts bytes read.
    Digest,
    /// Copies them to memory that nobody has written to yet, which the operating system clears while
    /// it is written to. The rate counts bytes read and written. On the host only.
    CopyToNew,
}

/// How much [`work`] there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkShape {
    /// Halves that are made, looked at, or copied: a multiple of 256.
    pub elements: u64,
    /// Threads on the host, each with so many elements of its own. A GPU takes no notice.
    pub threads: u32,
}

/// Measures what a device does with bytes that are there already.
///
/// On a GPU a run is one launch of the engine's own kernel, or one device-to-device copy, between
/// two events. On the host it lasts from the moment all threads are ready to the end of the slowest.
/// The bytes are random, without infinities and NaNs.
///
/// # Errors
///
/// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) for a type that cannot be decoded, for work
/// that the device does not do, where a figure is zero or not whole blocks, and for more bytes than
/// any memory holds; [`OutOfMemory`](crate::ErrorCode::OutOfMemory); what the device reports.
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
