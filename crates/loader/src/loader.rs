//! The order of a load: prove, plan, check memory, allocate, move, verify.

use crate::background::Background;
use crate::cancel::{CancelToken, Cancellable};
use crate::demand::Demand;
use crate::device_choice;
use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use crate::memory_account::MemoryAccount;
use crate::model::{LoadStats, LoadedModel, view};
use crate::options::{LoadOptions, Verify};
use crate::path_text::path_text;
use crate::scales::Scales;
use crate::source::Source;
use crate::transfer::How;
use crate::warning::Warning;
use crate::{checks, host_memory, readback, residency, threads, transfer};
use cuda_sys::{Device, DeviceBuffer, DeviceKind, Engine, EngineConfig, ErrorCode, StagingRing};
use gguf_format::GgufFile;
use model_phi3::{Conversion, LoadPlan, Phi3Config, Storage, TensorMap};
use std::path::Path;
use std::time::Instant;

/// Ten to sixteen readers filled the link of every machine that had no other work
/// (docs/performance.md); more would only take cores from others.
const MAX_CUDA_READERS: usize = 16;
/// Decoding on the host scales with cores; past this the memory does not.
const MAX_HOST_READERS: usize = 32;
/// Reads that storage serves at once (docs/performance.md): whoever waits for it needs no core.
const STORAGE_READERS: u32 = 16;
/// Measured on an H100: larger copies gain less than readers lose once the ring leaves their cores'
/// second-level caches (docs/performance.md).
const CUDA_CHUNK_BYTES: u64 = 8 << 20;
/// What the ring takes, unless chunks are so large that fewer than [`MIN_DEPTH`] fit.
const RING_BYTES: u64 = 32 << 20;
/// With fewer chunks under way readers wait for each other.
const MIN_DEPTH: u64 = 3;
const MAX_CUDA_DEPTH: u64 = 64;
/// A reader's share of a chunk: stays in a core's own cache while it is digested.
const READ_BYTES: u64 = 512 << 10;
/// On the host a reader decodes what it has read: both stay in a core's own cache.
const HOST_CHUNK_BYTES: u64 = 256 << 10;
/// A reader can go on while the chunk before is still being worked on by a slower one.
const HOST_CHUNKS_A_READER: u64 = 2;

/// Loads models. Keeps its device and its staging memory from load to load.
///
/// May be moved to other threads (`Send`); a load needs it exclusively, and loaders of several
/// threads do not hinder each other. Dropping it waits for a device that a cancelled load left
/// opening.
#[derive(Debug)]
pub struct Loader {
    options: LoadOptions,
    session: Option<Session>,
    /// Goes on where the load that wanted it was cancelled.
    opening: Option<Background<Opened>>,
}

type Opened = Result<(Session, Opening), Error>;

#[derive(Debug)]
struct Session {
    device: Device,
    name: String,
    engine: Engine,
    /// Whether the engine has its memory for conversions, which it keeps.
    converts: bool,
}

/// What a file holds and what a load of it would do, without touching a device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Planned {
    /// The model's configuration.
    pub config: Phi3Config,
    /// The plan.
    pub plan: LoadPlan,
    /// What may be wrong with the file although it can be loaded.
    pub warnings: Vec<Warning>,
}

impl Loader {
    /// A loader with these choices. Opens nothing yet.
    pub fn new(options: LoadOptions) -> Self {
        Self { options, session: None, opening: None }
    }

    /// Opens any GGUF file and proves its header, whatever model it holds.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`], [`Error::FileChanged`], [`Error::HostMemory`].
    pub fn inspect(&self, path: impl AsRef<Path>) -> Result<GgufFile, Error> {
        Ok(Source::open(path.as_ref(), &self.options.limits)?.into_gguf())
    }

    /// Says what a load would move where. Needs no device.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`] or [`Error::Model`].
    pub fn plan(&self, path: impl AsRef<Path>) -> Result<Planned, Error> {
        let source = Source::open(path.as_ref(), &self.options.limits)?;
        plan(&source, self.options.storage)
    }

    /// Loads the model into device memory.
    ///
    /// On failure, on cancellation and on a panic of the observer, all memory of this load has been
    /// freed when this returns.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    pub fn load(
        &mut self,
        path: impl AsRef<Path>,
        observer: &mut dyn Observer,
    ) -> Result<LoadedModel, Error> {
        self.load_cancellable(path, observer, &CancelToken::new())
    }

    /// Loads the model as [`load`](Self::load) does, until `token` is cancelled.
    ///
    /// Where it is cancelled before this returns, the load fails with [`Error::Cancelled`] and has
    /// freed its memory. A device that was being opened goes on opening for the next load of this
    /// loader.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    #[tracing::instrument(level = "info", skip_all, fields(path = %path_text(path.as_ref())))]
    pub fn load_cancellable(
        &mut self,
        path: impl AsRef<Path>,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        let mut observer = Cancellable { observer, token };
        let result = self.load_with_session(path.as_ref(), &mut observer, token);
        if let Err(Error::Engine(_) | Error::InsufficientMemory(_)) = &result {
            // What a failed device still does is unknown, and a full one is better off without the
            // session's own memory: the next load opens it anew.
            self.session = None;
        }
        result
    }

    fn load_with_session(
        &mut self,
        path: &Path,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        token.check()?;
        let start = Instant::now();
        let source = Source::open_settled(path, &self.options.limits, token)?;
        let parse_seconds = start.elapsed().as_secs_f64();
        self.load_source(&source, observer, token, start, parse_seconds)
            .map_err(|error| source.explain(error))
    }

    fn load_source(
        &mut self,
        source: &Source,
        observer: &mut dyn Observer,
        token: &CancelToken,
        start: Instant,
        parse_seconds: f64,
    ) -> Result<LoadedModel, Error> {
        let planning = Instant::now();
        let Planned { config, plan, warnings } = plan(source, self.options.storage)?;
        let plan_seconds = planning.elapsed().as_secs_f64();
        log_model(source.path(), &config, &plan);
        emit(observer, &LoadEvent::Opened { path: source.path(), config: &config })?;
        for warning in &warnings {
            tracing::warn!(code = warning.code(), "{warning}");
            emit(observer, &LoadEvent::Warned { warning })?;
        }
        emit(observer, &LoadEvent::Planned { plan: &plan })?;

        let (session, opening) = match self.session.take() {
            Some(session) => (self.session.insert(session), Opening::default()),
            None => {
                let waiting = Instant::now();
                let (session, opening) =
                    open_session(&mut self.opening, &self.options, Wanted::by(&plan), token)?;
                (self.session.insert(session), opening.last(waiting.elapsed().as_secs_f64()))
            }
        };

        let allocating = Instant::now();
        let demand = session.demand(&plan, &self.options);
        let (mut buffer, memory) = session.allocate(&demand)?;
        let allocate_seconds = allocating.elapsed().as_secs_f64();
        emit(
            observer,
            &LoadEvent::Allocated {
                device: session.device.kind(),
                device_name: &session.name,
                bytes: buffer.len(),
            },
        )?;

        let how = How::chosen(&self.options);
        // Before the first read; where even that fails, the session goes.
        session.converts |= converts(&plan);
        let moving = Instant::now();
        let scales = Scales::read(&plan, source)?;
        let engine = &mut session.engine;
        let moved = transfer::run(engine, source, how, &plan, &scales, &mut buffer, observer)
            .map_err(|error| match error {
                Error::Engine(error) => session.named(error, &demand),
                other => other,
            })?;
        let prepare_seconds = moving.elapsed().as_secs_f64() - moved.seconds;
        let verifying = Instant::now();
        checks::all_moved(&plan, moved.source_bytes, moved.operations.len())?;
        if how.digest {
            checks::digests_agree(&plan, &moved.operations)?;
        }
        let checking = Instant::now();
        let residency = residency::check(&plan, &buffer)?;
        let transfer_seconds = moved.seconds + checking.elapsed().as_secs_f64();
        if self.options.verify >= Verify::Readback {
            readback::compare(&plan, source, &buffer, token)?;
        }
        let verify_seconds = verifying.elapsed().as_secs_f64();
        let non_finite = checks::non_finite(&plan, &moved.operations);
        if self.options.deny_overflow && !non_finite.is_empty() {
            return Err(Error::NonFinite(non_finite));
        }
        for tensor in &non_finite {
            tracing::warn!("{tensor}");
        }
        let all_zero = checks::all_zero(&plan, &moved.operations, &scales);
        for tensor in &all_zero {
            tracing::warn!("{tensor}");
        }
        // Last, so that whatever was read above was read from the file that was opened.
        source.check_unchanged()?;
        emit(observer, &LoadEvent::Verified { residency: &residency })?;

        let weights = plan
            .weights(|slot| Ok(view(&plan, &buffer, slot)))
            .map_err(|error| Error::Model { path: source.path().to_owned(), source: error })?;
        let stats = LoadStats {
            device: session.device.kind(),
            device_name: session.name.clone(),
            vram_bytes: buffer.len(),
            source_bytes: moved.source_bytes,
            seconds: start.elapsed().as_secs_f64(),
            parse_seconds,
            plan_seconds,
            context_seconds: opening.context_seconds,
            pin_seconds: opening.pin_seconds,
            allocate_seconds,
            prepare_seconds,
            transfer_seconds,
            verify_seconds,
            io: moved.io,
            threads: moved.readers,
            depth: session.engine.config().depth,
            chunk_bytes: session.engine.config().chunk_bytes,
            read_bytes: session.engine.config().read_bytes,
            chunks: moved.chunks,
            pinned: moved.pinned,
            non_finite,
            warnings,
            all_zero,
            timeline: moved.timeline,
            residency,
            memory,
        };
        tracing::info!(
            vram_bytes = stats.vram_bytes,
            seconds = stats.seconds,
            transfer_seconds = stats.transfer_seconds,
            gb_per_s = stats.gb_per_s(),
            device = %stats.device,
            "model resident"
        );
        emit(observer, &LoadEvent::Finished { stats: &stats })?;
        Ok(LoadedModel { config, plan, weights, buffer, stats })
    }
}

/// Opens a session on a thread of its own, since a GPU's context takes a good part of a second and
/// cannot be interrupted; takes over what an earlier, cancelled load has begun.
fn open_session(
    opening: &mut Option<Background<Opened>>,
    options: &LoadOptions,
    wanted: Wanted,
    token: &CancelToken,
) -> Opened {
    if let Some(earlier) = opening {
        let opened = earlier.wait(token).ok_or(Error::Cancelled)?;
        *opening = None;
        if opened.is_ok() {
            return opened;
        }
    }
    let (options, span) = (options.clone(), tracing::Span::current());
    let begun = Background::start(move || span.in_scope(|| Session::open(&options, wanted)));
    let opened = opening.insert(begun).wait(token).ok_or(Error::Cancelled)?;
    *opening = None;
    opened
}

/// Sizes of the model whose load opens a session.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    source_bytes: u64,
    device_bytes: u64,
}

impl Wanted {
    fn by(plan: &LoadPlan) -> Self {
        Self { source_bytes: plan.source_bytes(), device_bytes: plan.device_bytes() }
    }
}

/// What opening a session took.
#[derive(Debug, Default)]
struct Opening {
    context_seconds: f64,
    pin_seconds: f64,
}

impl Opening {
    /// What of it is in its last `seconds`. A load that takes over an opening which a cancelled load
    /// began waits for the rest of it only; the ring comes after the context.
    fn last(&self, seconds: f64) -> Self {
        let pin_seconds = self.pin_seconds.min(seconds);
        Self { context_seconds: self.context_seconds.min(seconds - pin_seconds), pin_seconds }
    }
}

impl Session {
    fn open(options: &LoadOptions, wanted: Wanted) -> Result<(Self, Opening), Error> {
        let start = Instant::now();
        let choice = device_choice::resolve(options.device);
        let config = engine_config(options, choice, wanted.source_bytes);
        if choice == DeviceKind::Host {
            // The ring and the weights share the host's memory, so check both before making the ring.
            let demand = Demand {
                device: choice,
                arena: wanted.device_bytes,
                transient: 0,
                staging: config.ring_bytes(),
                reserve: options.reserve,
                limit: options.vram_limit,
            };
            demand.check_before(Device::open(choice)?.memory()?)?;
        }
        // Populating the ring's pages takes about as long as it hides behind the device's context.
        let (device, context_seconds, ring) = std::thread::scope(|scope| {
            let make = move || StagingRing::new(config);
            let room = host_memory::room_for_threads(1, config.ring_bytes()) == 1;
            let ring = room.then(|| threads::builder().spawn_scoped(scope, make));
            let device = Device::open(choice);
            let context_seconds = start.elapsed().as_secs_f64();
            let ring = match ring.and_then(Result::ok) {
                // A panic there is a bug here; it goes on in this thread.
                Some(ring) => ring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The thread cannot be started.
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

    /// What a load of the plan takes here. The engine keeps what it once had for conversions.
    fn demand(&self, plan: &LoadPlan, options: &LoadOptions) -> Demand {
        let converts = converts(plan) && !self.converts;
        Demand {
            device: self.device.kind(),
            arena: plan.device_bytes(),
            transient: if converts { self.engine.conversion_bytes(0) } else { 0 },
            staging: 0,
            reserve: options.reserve,
            limit: options.vram_limit,
        }
    }

    /// One allocation for all weights, between two looks at what is free.
    fn allocate(&self, demand: &Demand) -> Result<(DeviceBuffer, Option<MemoryAccount>), Error> {
        let before = self.device.memory()?;
        demand.check_before(before)?;
        let buffer =
            self.device.allocate(demand.arena).map_err(|error| self.named(error, demand))?;
        let after = self.device.memory()?;
        let account = MemoryAccount::between(before, after);
        if let Some(account) = &account {
            account.check(demand.device, demand.arena)?;
        }
        demand.check_after(after)?;
        Ok((buffer, account))
    }

    /// Names the figures where the device turned out to have no memory: somebody else was quicker.
    fn named(&self, error: cuda_sys::Error, demand: &Demand) -> Error {
        match (error.code(), self.device.memory()) {
            (ErrorCode::OutOfMemory, Ok(memory)) => demand.refused(memory),
            _ => Error::Engine(error),
        }
    }
}

fn converts(plan: &LoadPlan) -> bool {
    plan.ops().iter().any(|op| op.conversion != Conversion::Copy)
}

/// How the engine divides the work on this machine, where the caller leaves it open.
pub(crate) fn engine_config(
    options: &LoadOptions,
    device: DeviceKind,
    source_bytes: u64,
) -> EngineConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (readers, chunk_bytes) = match device {
        DeviceKind::Host => (cores.min(MAX_HOST_READERS), HOST_CHUNK_BYTES),
        // With some cores left to others: a reader that has to wait for its own keeps all waiting.
        DeviceKind::Cuda(_) => ((cores - cores / 8).min(MAX_CUDA_READERS), CUDA_CHUNK_BYTES),
    };
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    let readers = options.threads.unwrap_or(readers);
    let storage_readers = options.threads.unwrap_or(readers.max(STORAGE_READERS));
    // Room for more than the model would only cost memory.
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

fn plan(source: &Source, storage: Storage) -> Result<Planned, Error> {
    let gguf = source.gguf();
    let plan = || -> Result<_, model_phi3::Error> {
        let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors())?;
        let map = TensorMap::bind(&config, gguf.tensors())?;
        // Which proves the plan before it returns it.
        let plan = LoadPlan::new(&config, &map, storage)?;
        let warnings = Warning::of(gguf, Some(&config));
        Ok(Planned { config, plan, warnings })
    };
    plan().map_err(|source_error| Error::Model {
        path: source.path().to_owned(),
        source: source_error,
    })
}

fn log_model(path: &Path, config: &Phi3Config, plan: &LoadPlan) {
    tracing::info!(
        path = %path_text(path),
        layers = config.layers,
        hidden = config.hidden,
        vocab = config.vocab,
        attention = %config.attention().kind(),
        q_heads = config.heads,
        kv_heads = config.kv_heads,
        vram_bytes = plan.device_bytes(),
        "loading model"
    );
}

fn emit(observer: &mut dyn Observer, event: &LoadEvent<'_>) -> Result<(), Error> {
    match observer.event(event) {
        std::ops::ControlFlow::Continue(()) => Ok(()),
        std::ops::ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Unobserved;
    use crate::options::DeviceChoice;

    #[test]
    fn a_load_reports_no_more_of_an_earlier_opening_than_it_waited_for() {
        let options = LoadOptions::new().device(DeviceChoice::Host);
        let begun_by = options.clone();
        let begun = Background::start(move || {
            let wanted = Wanted { source_bytes: 1, device_bytes: 1 };
            let (session, _) = Session::open(&begun_by, wanted)?;
            Ok((session, Opening { context_seconds: 1e6, pin_seconds: 1e6 }))
        });
        let mut loader = Loader { options, session: None, opening: Some(begun) };
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
        let model = loader.load(path, &mut Unobserved).unwrap();
        let stats = model.stats();
        assert!(stats.pin_seconds > 0.0, "the session that was being opened is used");
        assert!(stats.context_seconds >= 0.0);
        assert!(stats.context_seconds + stats.pin_seconds <= stats.seconds, "{stats:?}");
    }

    #[test]
    fn the_ring_takes_no_more_than_it_needs() {
        const MIB: u64 = 1 << 20;
        for device in [DeviceKind::Host, DeviceKind::Cuda(0)] {
            let config = |options| engine_config(&options, device, 8 << 30);
            // 32 MiB and slack for aligned reads, rounded up to 2 MiB.
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
    fn the_last_of_an_opening_is_its_ring_and_then_its_context() {
        let opening = Opening { context_seconds: 2.0, pin_seconds: 0.5 };
        for (seconds, context, pin) in [(9.0, 2.0, 0.5), (1.5, 1.0, 0.5), (0.25, 0.0, 0.25)] {
            let last = opening.last(seconds);
            assert_eq!((last.context_seconds, last.pin_seconds), (context, pin), "{seconds}");
        }
    }
}
