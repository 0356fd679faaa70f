//! The device, staging ring and engine that a loader keeps between loads.

use crate::background::Background;
use crate::cancel::CancelToken;
use crate::error::Error;
use crate::memory_account::MemoryAccount;
use crate::memory_needs::MemoryNeeds;
use crate::options::LoadOptions;
use crate::{host_memory, threads};
use cuda_sys::{Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, ErrorCode, StagingRing};
use model_phi3::{Conversion, LoadPlan};
use std::time::Instant;

/// On idle machines, 10 to 16 readers saturated the link (docs/performance.md). More readers gain nothing and
/// take cores from other work.
const MAX_CUDA_READERS: usize = 16;
/// Decoding on the host scales up to this number of cores. With more, memory bandwidth is the limit.
const MAX_HOST_READERS: usize = 32;
/// Number of parallel reads from storage (docs/performance.md). It can exceed the number of cores, because a
/// thread that waits for storage needs no core.
const STORAGE_READERS: u32 = 16;
/// Measured on an H100 (docs/performance.md): with larger chunks the ring no longer fits into the second-level
/// caches of the readers' cores, and the readers lose more time than the larger copies save.
const CUDA_CHUNK_BYTES: u64 = 8 << 20;
/// Bytes of the ring. If fewer than [`MIN_DEPTH`] chunks fit, the ring is larger.
const RING_BYTES: u64 = 32 << 20;
/// With fewer chunks in flight, readers wait for each other.
const MIN_DEPTH: u64 = 3;
const MAX_CUDA_DEPTH: u64 = 64;
/// Bytes of one read, a part of a chunk. They stay in the core's own cache until their digest is computed.
const READ_BYTES: u64 = 512 << 10;
/// On the host the reader also decodes the chunk. Its source and decoded bytes stay in the core's own cache.
const HOST_CHUNK_BYTES: u64 = 256 << 10;
/// With two, a reader can start the next chunk while a slower reader still works on the one before.
const HOST_CHUNKS_A_READER: u64 = 2;

/// The session of a loader, which may not exist yet, be open, or be opening in the background.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Option<Session>,
    /// The opening that a cancelled load started and did not wait for.
    opening: Option<Background<Opened>>,
}

type Opened = Result<(Session, Opening), Error>;

impl Sessions {
    /// Returns the open session, or opens one. Also returns the time that this call spent on opening it.
    pub(crate) fn get(
        &mut self,
        options: &LoadOptions,
        wanted: Wanted,
        token: &CancelToken,
    ) -> Result<(&mut Session, Opening), Error> {
        if let Some(session) = self.open.take() {
            return Ok((self.open.insert(session), Opening::default()));
        }
        let waiting = Instant::now();
        let (session, opening) = self.wait_for_new(options, wanted, token)?;
        Ok((self.open.insert(session), opening.last(waiting.elapsed().as_secs_f64())))
    }

    /// Closes the session. The next load opens a new one.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Opens a session on its own thread, because creating a GPU context takes up to half a second and cannot
    /// be interrupted. If a cancelled load has started to open a session, waits for that one.
    fn wait_for_new(
        &mut self,
        options: &LoadOptions,
        wanted: Wanted,
        token: &CancelToken,
    ) -> Opened {
        if let Some(earlier) = &mut self.opening {
            let opened = earlier.wait(token).ok_or(Error::Cancelled)?;
            self.opening = None;
            if opened.is_ok() {
                return opened;
            }
        }
        let (options, span) = (options.clone(), tracing::Span::current());
        let begun = Background::start(move || span.in_scope(|| Session::open(&options, wanted)));
        let opened = self.opening.insert(begun).wait(token).ok_or(Error::Cancelled)?;
        self.opening = None;
        opened
    }
}

/// Sizes of the model that a new session will load first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) source_bytes: u64,
    pub(crate) device_bytes: u64,
}

impl Wanted {
    pub(crate) fn by(plan: &LoadPlan) -> Self {
        Self { source_bytes: plan.source_bytes(), device_bytes: plan.device_bytes() }
    }
}

/// Time that a load spent on opening its session.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    pub(crate) context_seconds: f64,
    pub(crate) pin_seconds: f64,
}

impl Opening {
    /// Splits the last `seconds` of the opening into context creation and ring pinning; pinning runs second.
    /// A load that continues the opening of a cancelled load waits only for that last part.
    fn last(&self, seconds: f64) -> Self {
        let pin_seconds = self.pin_seconds.min(seconds);
        Self { context_seconds: self.context_seconds.min(seconds - pin_seconds), pin_seconds }
    }
}

/// An open device with its engine.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) device: Device,
    pub(crate) name: String,
    pub(crate) engine: Engine,
    /// Whether the engine has allocated its memory for conversions, which it keeps.
    converts: bool,
}

impl Session {
    fn open(options: &LoadOptions, wanted: Wanted) -> Result<(Self, Opening), Error> {
        let start = Instant::now();
        let choice = options.device.resolve();
        let config = engine_config(options, choice, wanted.source_bytes);
        if choice == DeviceKind::Host {
            // The ring and the weights share the host's memory, so check both before making the ring.
            let needs = MemoryNeeds {
                device: choice,
                arena: wanted.device_bytes,
                transient: 0,
                staging: config.ring_bytes(),
                reserve: options.reserve,
                limit: options.vram_limit,
            };
            needs.check_before(Device::open(choice)?.memory()?)?;
        }
        // Allocate the ring and write to its pages while the device opens, which usually takes longer.
        let (device, context_seconds, ring) = std::thread::scope(|scope| {
            let make = move || StagingRing::new(config);
            let room = host_memory::room_for_threads(1, config.ring_bytes()) == 1;
            let ring = room.then(|| threads::builder().spawn_scoped(scope, make));
            let device = Device::open(choice);
            let context_seconds = start.elapsed().as_secs_f64();
            let ring = match ring.and_then(Result::ok) {
                // A panic of the thread is a bug. Resume it here.
                Some(ring) => ring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The thread could not be started.
                None => make(),
            };
            (device, context_seconds, ring)
        });
        let device = device?;
        let name = device.name()?;
        let engine = Engine::new(&device, ring?)?;
        tracing::info!(
            device = %choice,
            name,
            readers = config.readers,
            storage_readers = config.storage_readers,
            depth = config.depth,
            chunk_bytes = config.chunk_bytes,
            read_bytes = config.read_bytes,
            "device open"
        );
        let pin_seconds = start.elapsed().as_secs_f64() - context_seconds;
        Ok((
            Self { device, name, engine, converts: false },
            Opening { context_seconds, pin_seconds },
        ))
    }

    /// Returns the device memory that a load of the plan needs. The memory for conversions counts only until
    /// the engine has allocated it.
    pub(crate) fn needs(&self, plan: &LoadPlan, options: &LoadOptions) -> MemoryNeeds {
        let converts = converts(plan) && !self.converts;
        MemoryNeeds {
            device: self.device.kind(),
            arena: plan.device_bytes(),
            transient: if converts { self.engine.conversion_bytes(0) } else { 0 },
            staging: 0,
            reserve: options.reserve,
            limit: options.vram_limit,
        }
    }

    /// Records that the engine allocates its memory for conversions. Call this before the transfer of the
    /// plan. If the transfer fails, the loader closes the session.
    pub(crate) fn will_convert(&mut self, plan: &LoadPlan) {
        self.converts |= converts(plan);
    }

    /// Makes one allocation for all weights. Reads the free memory before and after it.
    pub(crate) fn allocate(
        &self,
        needs: &MemoryNeeds,
    ) -> Result<(DeviceBuffer, Option<MemoryAccount>), Error> {
        let before = self.device.memory()?;
        needs.check_before(before)?;
        let buffer =
            self.device.allocate(needs.arena).map_err(|error| self.with_figures(error, needs))?;
        let after = self.device.memory()?;
        let account = MemoryAccount::between(before, after);
        if let Some(account) = &account {
            account.check(needs.device, needs.arena)?;
        }
        needs.check_after(after)?;
        Ok((buffer, account))
    }

    /// Adds the memory figures to an out-of-memory error of the device. It can occur although the free memory
    /// was checked, because other processes allocate memory at the same time.
    pub(crate) fn with_figures(&self, error: cuda_sys::Error, needs: &MemoryNeeds) -> Error {
        match (error.code(), self.device.memory()) {
            (ErrorCode::OutOfMemory, Ok(memory)) => needs.refused(memory),
            _ => Error::Engine(error),
        }
    }
}

fn converts(plan: &LoadPlan) -> bool {
    plan.ops().iter().any(|op| op.conversion != Conversion::Copy)
}

/// Returns the engine's settings for this machine. Values in `options` take precedence.
pub(crate) fn engine_config(
    options: &LoadOptions,
    device: DeviceKind,
    source_bytes: u64,
) -> EngineConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (readers, chunk_bytes) = match device {
        DeviceKind::Host => (cores.min(MAX_HOST_READERS), HOST_CHUNK_BYTES),
        // Leave some cores to other work: if one reader waits for a core, all readers wait for it.
        DeviceKind::Cuda(_) => ((cores - cores / 8).min(MAX_CUDA_READERS), CUDA_CHUNK_BYTES),
    };
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    let readers = options.threads.unwrap_or(readers);
    let storage_readers = options.threads.unwrap_or(readers.max(STORAGE_READERS));
    // A chunk larger than the model would only waste memory.
    let chunk_bytes =
        options.chunk_bytes.unwrap_or(chunk_bytes).min(source_bytes.max(chunk_bytes)).max(1);
    let most = match device {
        DeviceKind::Host => u64::from(storage_readers) * HOST_CHUNKS_A_READER,
        DeviceKind::Cuda(_) => MAX_CUDA_DEPTH,
    };
    let depth = (RING_BYTES / chunk_bytes).max(MIN_DEPTH).min(most);
    EngineConfig {
        readers,
        storage_readers,
        depth: options.depth.unwrap_or(u32::try_from(depth).unwrap_or(u32::MAX)),
        chunk_bytes,
        read_bytes: options.read_bytes.unwrap_or(READ_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DeviceChoice;

    #[test]
    fn the_ring_takes_no_more_than_it_needs() {
        const MIB: u64 = 1 << 20;
        for device in [DeviceKind::Host, DeviceKind::Cuda(0)] {
            let config = |options| engine_config(&options, device, 8 << 30);
            // 32 MiB plus slack for aligned reads, rounded up to a multiple of 2 MiB.
            assert!(config(LoadOptions::new()).ring_bytes() <= 34 * MIB, "{device}");
            for chunk_bytes in [1, 4096, MIB, 8 * MIB, 16 * MIB, 64 * MIB, 1024 * MIB] {
                let ring = config(LoadOptions::new().chunk_bytes(chunk_bytes)).ring_bytes();
                assert!(
                    ring <= (3 * chunk_bytes).max(32 * MIB) + 2 * MIB,
                    "{device}: {chunk_bytes}"
                );
            }
            let named = config(LoadOptions::new().threads(3));
            assert_eq!((named.readers, named.storage_readers), (3, 3), "{device}");
            let left_open = config(LoadOptions::new());
            assert!(left_open.storage_readers >= left_open.readers.max(16), "{device}");
        }
    }

    #[test]
    fn the_last_seconds_of_an_opening_go_to_the_ring_before_the_context() {
        let opening = Opening { context_seconds: 2.0, pin_seconds: 0.5 };
        for (seconds, context, pin) in [(9.0, 2.0, 0.5), (1.5, 1.0, 0.5), (0.25, 0.0, 0.25)] {
            let last = opening.last(seconds);
            assert_eq!((last.context_seconds, last.pin_seconds), (context, pin), "{seconds}");
        }
    }

    #[test]
    fn a_load_reports_only_the_part_of_an_earlier_opening_that_it_waited_for() {
        let options = LoadOptions::new().device(DeviceChoice::Host);
        let begun_by = options.clone();
        let wanted = Wanted { source_bytes: 1, device_bytes: 1 };
        let begun = Background::start(move || {
            let (session, _) = Session::open(&begun_by, wanted)?;
            Ok((session, Opening { context_seconds: 1e6, pin_seconds: 1e6 }))
        });
        let mut sessions = Sessions { open: None, opening: Some(begun) };
        let start = Instant::now();
        let (_, opening) = sessions.get(&options, wanted, &CancelToken::new()).unwrap();
        let most = start.elapsed().as_secs_f64();
        assert!(opening.pin_seconds > 0.0, "the session that was being opened is used");
        assert!(opening.context_seconds >= 0.0);
        assert!(opening.context_seconds + opening.pin_seconds <= most, "{opening:?}");
        let (_, again) = sessions.get(&options, wanted, &CancelToken::new()).unwrap();
        assert_eq!((again.context_seconds, again.pin_seconds), (0.0, 0.0));
    }
}
