//! The transfer engine.

use crate::bridge::ffi;
use crate::copy_op::CopyOp;
use crate::device::{Device, DeviceKind};
use crate::device_buffer::DeviceBuffer;
use crate::digest::Digest;
use crate::error::Error;
use crate::io::Io;
use crate::lanes::{Destinations, LaneDevices};
use crate::observer::{ObserverShim, Progress};
use crate::sources::{self, Source, SourceReaders};
use crate::timeline::Span;
use cxx::UniquePtr;
use std::ops::ControlFlow;

/// The results of a call for one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpReport {
    /// The operation's index among those of the call.
    pub operation: u32,
    /// The operation's lane.
    pub lane: u32,
    /// Infinities among the floats at the destination.
    pub infinite: u64,
    /// NaNs among the same floats.
    pub nan: u64,
    /// Whether all bytes that were read are zero. `false` for an empty operation.
    pub all_zero: bool,
    /// Digest of the operation's bytes as they were read; zero if digests were not requested.
    pub source: Digest,
    /// Digest of the same bytes on the device.
    pub device: Digest,
}

/// How the engine divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Reader threads, 1 to [`MAX_READERS`](Self::MAX_READERS). They fill chunks together.
    pub readers: u32,
    /// Reader threads if bytes come from storage, which makes them wait. If [`readers`](Self::readers) is
    /// larger, it is used instead. Storage means [`Io::Direct`]; [`Io::Auto`], if the page cache does not
    /// hold all of a small sample of a file; and a [`Source::Reader`] whose hints say so.
    pub storage_readers: u32,
    /// Chunks under way at once, 1 to [`MAX_DEPTH`](Self::MAX_DEPTH); each takes its place in the
    /// staging ring.
    pub depth: u32,
    /// Largest copy to the device in bytes, at most [`MAX_CHUNK_BYTES`](Self::MAX_CHUNK_BYTES); small
    /// values are raised to 4 KiB.
    pub chunk_bytes: u64,
    /// Largest read in bytes, a reader's share of a chunk; rounded down to pages of 4 KiB, at least
    /// one.
    pub read_bytes: u64,
}

impl EngineConfig {
    /// Most reader threads that an engine takes.
    pub const MAX_READERS: u32 = 256;
    /// Most chunks under way at once.
    pub const MAX_DEPTH: u32 = 1024;
    /// Bytes of the largest chunk: 1 GiB.
    pub const MAX_CHUNK_BYTES: u64 = 1 << 30;

    /// A configuration whose number of readers does not depend on the storage.
    #[must_use]
    pub const fn new(readers: u32, depth: u32, chunk_bytes: u64, read_bytes: u64) -> Self {
        Self { readers, storage_readers: 0, depth, chunk_bytes, read_bytes }
    }

    /// Host memory that the engine's staging ring takes, in bytes.
    pub fn ring_bytes(&self) -> u64 {
        ffi::ring_bytes(&self.as_ffi())
    }

    fn as_ffi(&self) -> ffi::RingShape {
        let Self { readers, storage_readers, depth, chunk_bytes, read_bytes } = *self;
        ffi::RingShape { readers, storage_readers, depth, chunk_bytes, read_bytes }
    }
}

/// Returns the smallest [`EngineConfig::chunk_bytes`] with which an engine accepts these operations: chunks must hold
/// some rows of each matrix of which columns are moved. 0 if no columns are moved.
#[must_use]
pub fn least_chunk_bytes(ops: &[CopyOp]) -> u64 {
    ffi::least_chunk_bytes(ops)
}

/// The host memory through which chunks pass. It is separate from the engine, so that its pages can be
/// populated while a device is opened.
pub struct StagingRing {
    inner: UniquePtr<ffi::Ring>,
    config: EngineConfig,
}

impl StagingRing {
    /// Maps and populates the memory that an engine of this configuration needs.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if the configuration is out of
    /// range, [`HostOutOfMemory`](crate::ErrorCode::HostOutOfMemory).
    pub fn new(config: EngineConfig) -> Result<Self, Error> {
        Ok(Self { inner: ffi::make_ring(&config.as_ffi())?, config })
    }
}

impl std::fmt::Debug for StagingRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagingRing").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The statistics of a call to [`Engine::execute`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes read from the sources for the operations.
    pub source_bytes: u64,
    /// Number of chunks, each of which is one contiguous read.
    pub chunks: u64,
    /// Reader threads, as configured for these sources; a small request starts fewer.
    pub readers: u32,
    /// Seconds from the first read until the last byte has landed.
    pub seconds: f64,
    /// How files were really read: as requested, or [`Io::Read`] if the system refused that for some of
    /// them.
    pub io: Io,
    /// Whether the staging ring is pinned for the devices of all lanes.
    pub pinned: bool,
    /// Bytes that went over the link of each lane, those of helpers last. Bytes that a lane took from the
    /// device of another lane count only for that other lane.
    pub link_bytes: Vec<u64>,
    /// The times of all steps, in no order; empty if not requested.
    pub timeline: Vec<Span>,
    /// One entry for each operation, in their order.
    pub operations: Vec<OpReport>,
}

/// The work of one call to [`Engine::execute`].
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The sources of all operations.
    pub sources: &'a [Source<'a>],
    /// How files among the sources are read.
    pub io: Io,
    /// The operations.
    pub ops: &'a [CopyOp],
    /// Number of progress units. The units of operations are smaller than this.
    pub units: u32,
    /// Whether to digest every operation's bytes, as read and as arrived.
    pub digest: bool,
    /// Whether to record the times of all steps.
    pub timeline: bool,
}

impl<'a> Request<'a> {
    /// A request without digests and without times.
    #[must_use]
    pub const fn new(sources: &'a [Source<'a>], io: Io, ops: &'a [CopyOp], units: u32) -> Self {
        Self { sources, io, ops, units, digest: false, timeline: false }
    }
}

/// Executes copy operations. The staging ring and the queues are kept between calls.
///
/// Each byte is read once and moved to the lanes whose operations need it. A lane is a device and, during a
/// call, a destination on that device. If several GPUs need the same bytes and can copy from each other, the
/// bytes go over one link, and the links share the work.
pub struct Engine {
    inner: UniquePtr<ffi::Engine>,
    config: EngineConfig,
    devices: Vec<DeviceKind>,
}

impl Engine {
    /// Creates an engine with one lane, to `device`. The ring determines the configuration.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if the configuration is out of
    /// range, [`DeviceFailure`](crate::ErrorCode::DeviceFailure) if queues cannot be made.
    pub fn new(device: &Device, ring: StagingRing) -> Result<Self, Error> {
        Self::with_lanes(&[device], ring)
    }

    /// Creates an engine with a lane for each of the devices, in their order. A device may have several
    /// lanes.
    ///
    /// # Errors
    ///
    /// The same as for [`new`](Self::new), and [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if
    /// there is no device.
    pub fn with_lanes(devices: &[&Device], ring: StagingRing) -> Result<Self, Error> {
        Self::with_helpers(devices, &[], ring)
    }

    /// Creates an engine as [`with_lanes`](Self::with_lanes) does, and lanes without destinations for the
    /// helpers. A helper lends its link: chunks for another GPU are copied to the helper and from there to
    /// that GPU. A helper from which no lane can take bytes is not used.
    ///
    /// # Errors
    ///
    /// The same as for [`with_lanes`](Self::with_lanes).
    pub fn with_helpers(
        devices: &[&Device],
        helpers: &[&Device],
        ring: StagingRing,
    ) -> Result<Self, Error> {
        let StagingRing { inner, config } = ring;
        let lanes = [devices, helpers].concat();
        let kinds: Vec<_> = lanes.iter().map(|device| device.kind()).collect();
        let count = u32::try_from(helpers.len()).unwrap_or(u32::MAX);
        let made = ffi::make_engine(&LaneDevices(&lanes), count, inner, &config.as_ffi());
        let inner = made.map_err(|error| Error::from(error).naming(&kinds))?;
        Ok(Self { inner, config, devices: kinds })
    }

    /// The engine's configuration.
    pub fn config(&self) -> EngineConfig {
        self.config
    }

    /// The devices of the lanes, those of helpers last.
    pub fn devices(&self) -> &[DeviceKind] {
        &self.devices
    }

    /// Returns the bytes that [`execute`](Self::execute) allocates on a lane's device, in addition to the
    /// destination, if chunks cannot be copied directly: for conversions, to scatter many small
    /// operations, and to hand chunks on to other lanes. The engine keeps this memory. Returns 0 if there is
    /// no such lane.
    pub fn conversion_bytes(&self, lane: u32) -> u64 {
        self.inner.conversion_bytes(lane)
    }

    /// [`execute_lanes`](Self::execute_lanes) for an engine with one lane.
    ///
    /// # Errors
    ///
    /// The same as for [`execute_lanes`](Self::execute_lanes).
    pub fn execute(
        &mut self,
        request: Request<'_>,
        dest: &mut DeviceBuffer,
        observe: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        self.execute_lanes(request, &mut [dest], observe)
    }

    /// Moves the bytes of every operation to its lane's destination. There is one destination for
    /// each lane, on the lane's device.
    ///
    /// Returns when all bytes have landed. On failure, nothing is in flight any more, and the content of
    /// the destinations is unspecified. `observe` is called on this thread, for each finished unit and
    /// about 50 times per second between them. [`ControlFlow::Break`] cancels the call. A panic in
    /// `observe` cancels the call too, and then continues here.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if operations leave their source or
    /// destination, overlap, or do not match their conversion, or if the destinations do not match the
    /// lanes; [`Cancelled`](crate::ErrorCode::Cancelled); and errors of reads and devices.
    pub fn execute_lanes(
        &mut self,
        request: Request<'_>,
        dests: &mut [&mut DeviceBuffer],
        observe: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        let Request { sources, io, ops, units, digest, timeline } = request;
        let readers = SourceReaders::new(sources);
        let mut shim = ObserverShim::new(observe);
        let result = self.inner.pin_mut().execute(
            &sources::infos(sources),
            &readers,
            io.number(),
            ops,
            units,
            digest,
            timeline,
            &mut Destinations::new(dests),
            &mut shim,
        );
        shim.resume_panic();
        let stats = readers.resume(result.map_err(Error::from));
        let stats = stats.map_err(|error| error.naming(&self.devices))?;
        Ok(Stats {
            source_bytes: stats.source_bytes,
            chunks: stats.chunks,
            readers: stats.readers,
            seconds: stats.seconds,
            io: if stats.fell_back { Io::Read } else { io },
            pinned: stats.pinned,
            link_bytes: stats.link_bytes,
            timeline: stats.timeline.iter().filter_map(Span::from_ffi).collect(),
            operations: stats
                .operations
                .into_iter()
                .map(|report| OpReport {
                    operation: report.operation,
                    lane: report.lane,
                    infinite: report.infinite,
                    nan: report.nan,
                    all_zero: report.all_zero,
                    source: report.source.into(),
                    device: report.device.into(),
                })
                .collect(),
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    /// Rust states the limits in its documentation, C++ enforces them.
    #[test]
    fn the_largest_configuration_is_accepted_and_no_larger_one() {
        let readers = EngineConfig::MAX_READERS;
        let depth = EngineConfig::MAX_DEPTH;
        let largest = EngineConfig {
            storage_readers: readers,
            ..EngineConfig::new(readers, depth, 4096, 4096)
        };
        StagingRing::new(largest).unwrap();
        for config in [
            EngineConfig { readers: readers + 1, ..largest },
            EngineConfig { storage_readers: readers + 1, ..largest },
            EngineConfig { depth: depth + 1, ..largest },
            EngineConfig { chunk_bytes: EngineConfig::MAX_CHUNK_BYTES + 1, ..largest },
        ] {
            let error = StagingRing::new(config).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{config:?}");
        }
    }
}
