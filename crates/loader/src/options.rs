//! What a caller may choose about a load.

use gguf_format::Limits;
use model_phi3::Storage;

/// The device to load to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// The first GPU where there is one that this build can use, else host memory. The choice is
    /// logged and stands in [`LoadEvent::Allocated`](crate::LoadEvent::Allocated).
    #[default]
    Auto,
    /// Host memory.
    Host,
    /// The GPU of this ordinal.
    Cuda(i32),
}

/// How the file's bytes are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoChoice {
    /// What the page cache holds is read from it, the rest past it with `O_DIRECT`, so that the cache
    /// stays as it was.
    #[default]
    Auto,
    /// Copies from a mapping of the file. Installs a process-wide `SIGBUS` handler, without which a
    /// file that is cut short would kill the process; see [`Io::Mapped`](cuda_sys::Io::Mapped).
    Mmap,
    /// Positioned reads through the page cache.
    Read,
    /// `O_DIRECT`, past the page cache; buffered where the file system refuses.
    Direct,
}

/// How much proof a load ends with. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verify {
    /// Every weight pointer is memory of the right device inside the one allocation, and sizes agree
    /// with the plan.
    #[default]
    Residency,
    /// The bytes of the file are also digested as they are read and again on the device, where they
    /// arrived, and the digests compared.
    Checksum,
    /// Everything is also read back from the device and compared with the file, decoded again on the
    /// host.
    Readback,
}

/// Choices for a [`Loader`](crate::Loader). The default is right for a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Where to load to.
    pub device: DeviceChoice,
    /// What the weights become.
    pub storage: Storage,
    /// How the file is read.
    pub io: IoChoice,
    /// Largest single copy to the device in bytes; `None` leaves it to the loader.
    pub chunk_bytes: Option<u64>,
    /// Largest single read in bytes, a thread's share of a copy; `None` leaves it to the loader.
    pub read_bytes: Option<u64>,
    /// Reader threads; `None` leaves it to the loader, which takes more for what the page cache does
    /// not hold.
    pub threads: Option<u32>,
    /// Copies that may be under way, each of which takes `chunk_bytes` of staging memory; `None`
    /// leaves it to the loader.
    pub depth: Option<u32>,
    /// Bytes of device memory the weights may take; `None` for what is free.
    pub vram_limit: Option<u64>,
    /// Bytes of device memory that must stay free beside the weights, for what will use them, such as
    /// a key-value cache ([`Phi3Config::kv_cache_bytes`](crate::Phi3Config::kv_cache_bytes)). Looked
    /// at before and after the weights are allocated; nothing keeps other processes from it later.
    pub reserve: u64,
    /// Proof asked for.
    pub verify: Verify,
    /// Whether a weight that is infinite or NaN as it was loaded fails the load, instead of being
    /// reported. Quantised blocks that native storage keeps are not counted.
    pub deny_overflow: bool,
    /// Whether to note what was done when, for [`TransferFigures::timeline`](crate::TransferFigures::timeline).
    pub timeline: bool,
    /// Bounds on what a file's header may claim.
    pub limits: Limits,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            storage: Storage::F16,
            io: IoChoice::default(),
            chunk_bytes: None,
            read_bytes: None,
            threads: None,
            depth: None,
            vram_limit: None,
            reserve: 0,
            verify: Verify::default(),
            deny_overflow: false,
            timeline: false,
            limits: Limits::default(),
        }
    }
}

impl LoadOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`device`](Self::device).
    #[must_use]
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
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
    pub fn io(mut self, io: IoChoice) -> Self {
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
