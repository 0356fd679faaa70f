//! The options of a load.

use crate::error::Error;
use cuda_sys::{EngineConfig, Io};
use gguf_format::Limits;
use model_phi3::{Placement, SplitMode, Storage};

/// The device to load to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// The first GPU that this build can use; if there is none, host memory. The choice is logged and
    /// reported in [`LoadEvent::Allocated`](crate::LoadEvent::Allocated).
    #[default]
    Auto,
    /// Host memory.
    Host,
    /// The GPU with this ordinal.
    Cuda(i32),
}

/// The level of verification at the end of a load. Each level includes the levels before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verify {
    /// Checks that every weight pointer is in the allocation on the right device, and that sizes agree with the
    /// plan.
    #[default]
    Residency,
    /// Also computes digests of the file's bytes when they are read, and again on the device when they have
    /// arrived. The digests must be equal.
    Checksum,
    /// Also reads everything back from the device and compares it with the file, which the host decodes
    /// again.
    Readback,
}

/// Options of a [`Loader`](crate::Loader). The defaults suit an inference worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The devices to load to. A device can be named several times: each time it holds another part of the model.
    pub devices: Vec<DeviceChoice>,
    /// The way in which the model is divided among the devices. If `None`, one device holds everything, and several
    /// devices hold consecutive layers ([`SplitMode::Layer`]).
    pub placement: Option<Placement>,
    /// Helpers: GPUs that lend their links. Some chunks for a device are copied to a helper and from there to the
    /// device. That is faster than one link alone if the GPUs are connected by NVLink. Each helper needs a context, and
    /// 34 MiB of memory (by default) as long as the loader exists. A helper from which no device can copy is not used.
    pub via: Vec<DeviceChoice>,
    /// The format of the weights on the device.
    pub storage: Storage,
    /// The method of reading the file.
    pub io: Io,
    /// The largest single copy to the device, in bytes: 1 byte to 1 GiB. Small values are raised to 4 KiB,
    /// and to some rows of a matrix if it is divided by columns. If `None`, the loader chooses.
    pub chunk_bytes: Option<u64>,
    /// The largest single read of one thread, in bytes; a copy consists of several reads. At
    /// least 4 KiB and at most one copy are read. If `None`, the loader chooses.
    pub read_bytes: Option<u64>,
    /// The number of reader threads, 1 to 256. If `None`, the loader chooses: it uses more threads if the page
    /// cache does not hold the file.
    pub threads: Option<u32>,
    /// The number of copies that can run at the same time, 1 to 1024. Each takes `chunk_bytes` and some KiB of
    /// staging memory. If `None`, the loader chooses.
    pub depth: Option<u32>,
    /// The largest number of bytes of device memory for the weights, on each device. If `None`, all free memory. If
    /// there are GPUs, it does not hold for the host.
    pub vram_limit: Option<u64>,
    /// Bytes of device memory that must stay free beside the weights, for example for a key-value cache
    /// ([`Phi3Config::kv_cache_bytes`](crate::Phi3Config::kv_cache_bytes)). This is checked before and
    /// after the weights are allocated. Another process can still take the memory later. It holds for the same
    /// devices as [`vram_limit`](Self::vram_limit).
    pub reserve: u64,
    /// The level of verification.
    pub verify: Verify,
    /// If a loaded weight is infinite or NaN, the load fails instead of reporting it. Quantised blocks
    /// that native storage keeps are not checked.
    pub deny_overflow: bool,
    /// Whether other processes can map the memory of the weights ([`LoadedModel::hand_over`]), and a later load can
    /// reuse it ([`Loader::replace`]). A GPU rounds such memory up, usually to 2 MiB. On the host it is a file in
    /// memory.
    ///
    /// [`LoadedModel::hand_over`]: crate::LoadedModel::hand_over
    /// [`Loader::replace`]: crate::Loader::replace
    pub shareable: bool,
    /// Whether the weights become read-only at the end of the load. A kernel that writes to them ends the GPU context of
    /// its process, and the weights stay as they are. On the host such a write is a `SIGSEGV`. The memory is then
    /// [`shareable`](Self::shareable).
    pub protect: bool,
    /// Whether to record the time of each step, for
    /// [`TransferFigures::timeline`](crate::TransferFigures::timeline).
    pub timeline: bool,
    /// Limits for the sizes and counts in a file's header.
    pub limits: Limits,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            devices: vec![DeviceChoice::default()],
            placement: None,
            via: Vec::new(),
            storage: Storage::F16,
            io: Io::default(),
            chunk_bytes: None,
            read_bytes: None,
            threads: None,
            depth: None,
            vram_limit: None,
            reserve: 0,
            verify: Verify::default(),
            deny_overflow: false,
            shareable: false,
            protect: false,
            timeline: false,
            limits: Limits::default(),
        }
    }
}

impl LoadOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails if an option is outside its range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let in_range = |option, value: Option<u64>, least, most| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(Error::InvalidOption { option, value, least, most })
            }
            _ => Ok(()),
        };
        self.placement_of_devices()?;
        in_range("threads", self.threads.map(u64::from), 1, EngineConfig::MAX_READERS.into())?;
        in_range("depth", self.depth.map(u64::from), 1, EngineConfig::MAX_DEPTH.into())?;
        in_range("chunk_bytes", self.chunk_bytes, 1, EngineConfig::MAX_CHUNK_BYTES)
    }

    /// Returns the placement; the default one if there is none.
    pub(crate) fn placement_of_devices(&self) -> Result<Placement, Error> {
        let devices = self.devices.len();
        match &self.placement {
            Some(placement) if placement.devices() == devices => Ok(placement.clone()),
            Some(placement) => Err(Error::DeviceCount { devices, placement: placement.devices() }),
            None if devices == 1 => Ok(Placement::single()),
            None => Placement::new(SplitMode::Layer, devices).map_err(Error::InvalidPlacement),
        }
    }

    /// Sets [`devices`](Self::devices) to one device.
    #[must_use]
    pub fn device(self, device: DeviceChoice) -> Self {
        self.devices([device])
    }

    /// Sets [`devices`](Self::devices).
    #[must_use]
    pub fn devices(mut self, devices: impl IntoIterator<Item = DeviceChoice>) -> Self {
        self.devices = devices.into_iter().collect();
        self
    }

    /// Sets [`placement`](Self::placement).
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = Some(placement);
        self
    }

    /// Sets [`via`](Self::via).
    #[must_use]
    pub fn via(mut self, helpers: impl IntoIterator<Item = DeviceChoice>) -> Self {
        self.via = helpers.into_iter().collect();
        self
    }

    /// Sets [`storage`](Self::storage).
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// Sets [`io`](Self::io).
    #[must_use]
    pub fn io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Sets [`chunk_bytes`](Self::chunk_bytes).
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = Some(bytes);
        self
    }

    /// Sets [`read_bytes`](Self::read_bytes).
    #[must_use]
    pub fn read_bytes(mut self, bytes: u64) -> Self {
        self.read_bytes = Some(bytes);
        self
    }

    /// Sets [`threads`](Self::threads).
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets [`depth`](Self::depth).
    #[must_use]
    pub fn depth(mut self, depth: u32) -> Self {
        self.depth = Some(depth);
        self
    }

    /// Sets [`vram_limit`](Self::vram_limit).
    #[must_use]
    pub fn vram_limit(mut self, bytes: u64) -> Self {
        self.vram_limit = Some(bytes);
        self
    }

    /// Sets [`reserve`](Self::reserve).
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.reserve = bytes;
        self
    }

    /// Sets [`shareable`](Self::shareable).
    #[must_use]
    pub fn shareable(mut self, shareable: bool) -> Self {
        self.shareable = shareable;
        self
    }

    /// Sets [`protect`](Self::protect).
    #[must_use]
    pub fn protect(mut self, protect: bool) -> Self {
        self.protect = protect;
        self
    }

    /// Sets [`timeline`](Self::timeline).
    #[must_use]
    pub fn timeline(mut self, timeline: bool) -> Self {
        self.timeline = timeline;
        self
    }

    /// Sets [`deny_overflow`](Self::deny_overflow).
    #[must_use]
    pub fn deny_overflow(mut self, deny: bool) -> Self {
        self.deny_overflow = deny;
        self
    }

    /// Sets [`verify`](Self::verify).
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }
}
