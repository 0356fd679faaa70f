//! The transfer engine.

use crate::bridge::ffi;
use crate::copy_op::CopyOp;
use crate::device::{Device, DeviceBuffer, DeviceKind};
use crate::digest::Digest;
use crate::error::Error;
use crate::io::Io;
use crate::lanes::{Destinations, LaneDevices};
use crate::observer::{ObserverShim, Progress};
use crate::sources::{self, Source, SourceReaders};
use crate::timeline::Span;
use cxx::UniquePtr;
use std::ops::ControlFlow;

/// What a call found out about one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpReport {
    /// The operation's index among those of the call.
    pub operation: u32,
    /// The lane that it named.
    pub lane: u32,
    /// Infinities among the floats at the destination.
    pub infinite: u64,
    /// NaNs among them.
    pub nan: u64,
    /// Whether every byte that was read is zero. `false` for an operation of no bytes.
    pub all_zero: bool,
    /// Digest of the operation's bytes as they were read; zero where none was asked for.
    pub source: Digest,
    /// Digest of the same bytes as they are on the device.
    pub device: Digest,
}

/// How the engine divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Reader threads, 1 to [`MAX_READERS`](Self::MAX_READERS). They fill chunks together.
    pub readers: u32,
    /// Reader threads where bytes come from storage, which keeps them waiting; no fewer than
    /// [`readers`](Self::readers) are taken. Such are reads with [`Io::Direct`], with [`Io::Auto`]
    /// where a look at a few places finds one that the page cache does not hold, and of a
    /// [`Source::Reader`] that says so.
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

/// Host memory that chunks pass through. Made apart from the engine, so that its pages can be
/// populated while the device is being opened.
pub struct StagingRing {
    inner: UniquePtr<ffi::Ring>,
    config: EngineConfig,
}

impl StagingRing {
    /// Maps and populates the memory that an engine of this configuration needs.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) where the configuration is out of
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

/// What a call to [`Engine::execute`] did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes read from the sources for the operations.
    pub source_bytes: u64,
    /// Copies to the device it took.
    pub chunks: u64,
    /// Reader threads, as configured for such sources; little work takes fewer.
    pub readers: u32,
    /// Seconds from the first read to the last byte landed.
    pub seconds: f64,
    /// How files were read in fact: as was asked for, or [`Io::Read`] where the system refused that
    /// for some of them.
    pub io: Io,
    /// Whether the staging ring was pinned for the devices of all lanes.
    pub pinned: bool,
    /// What was done when, in no order; empty where none was asked for.
    pub timeline: Vec<Span>,
    /// One entry an operation, in their order.
    pub operations: Vec<OpReport>,
}

/// What [`Engine::execute`] is to do.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What operations read.
    pub sources: &'a [Source<'a>],
    /// How files among the sources are read.
    pub io: Io,
    /// What is moved.
    pub ops: &'a [CopyOp],
    /// Progress units; those of the operations are below it.
    pub units: u32,
    /// Whether to digest every operation's bytes, as read and as arrived.
    pub digest: bool,
    /// Whether to note what was done when.
    pub timeline: bool,
}

/// Executes copy operations. Keeps its staging ring and its queues between calls.
///
/// It reads each byte once, and takes it to the lane that the byte's operation names. A lane is a
/// device and, during a call, a destination on it.
pub struct Engine {
    inner: UniquePtr<ffi::Engine>,
    config: EngineConfig,
    devices: Vec<DeviceKind>,
}

impl Engine {
    /// An engine with one lane, to `device`, on the ring made for its configuration.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) where the configuration is out of
    /// range, [`DeviceFailure`](crate::ErrorCode::DeviceFailure) where queues cannot be made.
    pub fn new(device: &Device, ring: StagingRing) -> Result<Self, Error> {
        Self::with_lanes(&[device], ring)
    }

    /// The same with a lane for each of the devices, in their order. A device may have several.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and [`InvalidArgument`](crate::ErrorCode::InvalidArgument) without
    /// any device.
    pub fn with_lanes(devices: &[&Device], ring: StagingRing) -> Result<Self, Error> {
        let StagingRing { inner, config } = ring;
        let kinds: Vec<_> = devices.iter().map(|device| device.kind()).collect();
        let made = ffi::make_engine(&LaneDevices(devices), inner, &config.as_ffi());
        let inner = made.map_err(|error| Error::from(error).naming(&kinds))?;
        Ok(Self { inner, config, devices: kinds })
    }

    /// The configuration it was made with.
    pub fn config(&self) -> EngineConfig {
        self.config
    }

    /// The devices of its lanes.
    pub fn devices(&self) -> &[DeviceKind] {
        &self.devices
    }

    /// Memory of a lane's device, in bytes, that [`execute`](Self::execute) allocates beside the
    /// destination where bytes do not land directly: where it converts, or scatters many small
    /// operations. The engine keeps it. 0 where there is no such lane.
    pub fn conversion_bytes(&self, lane: u32) -> u64 {
        self.inner.conversion_bytes(lane)
    }

    /// [`execute_lanes`](Self::execute_lanes) for an engine with one lane.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn execute(
        &mut self,
        request: Request<'_>,
        dest: &mut DeviceBuffer,
        observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        self.execute_lanes(request, &mut [dest], observe)
    }

    /// Moves the bytes of every operation to its lane's destination. There is one destination for
    /// each lane, on the lane's device.
    ///
    /// Returns when all have landed. On failure nothing is in flight any more and the content of the
    /// destinations is unspecified. `observe` is called on this thread, whenever a unit has finished
    /// and about fifty times a second in between; [`ControlFlow::Break`] cancels. A panic in it
    /// cancels too and then goes on here.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) for operations that leave their source
    /// or the destination, overlap, or do not match their conversion, and for destinations that are
    /// not those of the lanes; otherwise what reading or a device reports, or
    /// [`Cancelled`](crate::ErrorCode::Cancelled).
    pub fn execute_lanes(
        &mut self,
        request: Request<'_>,
        dests: &mut [&mut DeviceBuffer],
        observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
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
        readers.resume_panic();
        let stats = result.map_err(|error| Error::from(error).naming(&self.devices))?;
        Ok(Stats {
            source_bytes: stats.source_bytes,
            chunks: stats.chunks,
            readers: stats.readers,
            seconds: stats.seconds,
            io: if stats.fell_back { Io::Read } else { io },
            pinned: stats.pinned,
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

    /// The limits are the engine's own, in C++.
    #[test]
    fn the_largest_configuration_is_taken_and_no_larger_one() {
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
