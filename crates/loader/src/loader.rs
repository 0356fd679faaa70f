//! The steps of a load.

use crate::cancel::{CancelToken, Cancellable};
use crate::error::{Error, NonFiniteTensor};
use crate::event::{LoadEvent, Observer};
use crate::fit::Fit;
use crate::input::Input;
use crate::memory_needs::MemoryNeeds;
use crate::model::{LoadedModel, view};
use crate::options::{LoadOptions, Verify};
use crate::residency::Residency;
use crate::scales::Scales;
use crate::session::{Session, Sessions, Wanted};
use crate::source::Source;
use crate::stats::{AllZeroTensor, LoadStats, Phases, Proof, TransferFigures};
use crate::transfer::TransferOptions;
use crate::warning::Warning;
use crate::{checks, readback, residency, transfer};
use cuda_sys::{DeviceBuffer, DeviceKind, EngineConfig, Stats};
use gguf_format::GgufFile;
use model_phi3::{LoadPlan, Phi3Config, Storage};
use std::borrow::Cow;
use std::fs::File;
use std::time::Instant;

/// Loads models. Keeps its device and its staging memory between loads.
///
/// A loader can be moved to other threads (`Send`). A load borrows it mutably. Loaders of different threads do
/// not block each other. If a load was cancelled while the device was being opened, dropping the loader waits
/// until the device is open.
#[derive(Debug)]
pub struct Loader {
    options: LoadOptions,
    sessions: Sessions,
}

/// The configuration of a file's model, and the plan of its load. Made without a device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Planned {
    /// The model's configuration.
    pub config: Phi3Config,
    /// The plan.
    pub plan: LoadPlan,
    /// Possible faults of the file. They do not prevent a load.
    pub warnings: Vec<Warning>,
}

impl Loader {
    /// Returns a loader with these options. Opens nothing yet.
    pub fn new(options: LoadOptions) -> Self {
        Self { options, sessions: Sessions::default() }
    }

    /// Sets [`LoadOptions::reserve`] for the next loads. The memory of a key-value cache depends on the model, which
    /// may be known only after the device was [prepared](Self::prepare).
    pub fn set_reserve(&mut self, bytes: u64) {
        self.options.reserve = bytes;
    }

    /// Opens the device and makes the staging memory, so that the first load need not. Creating the context of
    /// a GPU takes several hundred milliseconds. Blocks until the device is open, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`]. [`Error::Engine`] if the device cannot be opened, or the host has too little
    /// memory for staging.
    pub fn prepare(&mut self) -> Result<DeviceKind, Error> {
        self.options.check()?;
        let (session, _) =
            self.sessions.get(&self.options, Wanted::UNKNOWN, &CancelToken::new())?;
        Ok(session.device.kind())
    }

    /// Starts to open the device, as [`prepare`](Self::prepare) does, and returns at once. The next load waits
    /// for the rest. If the device cannot be opened, the next load tries again and returns the error.
    pub fn start_preparing(&mut self) {
        self.sessions.start_opening(&self.options, Wanted::UNKNOWN);
    }

    /// Opens a GGUF file of any model and checks its header.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`], [`Error::FileChanged`], [`Error::HostMemory`].
    pub fn inspect(&self, input: impl Into<Input>) -> Result<GgufFile, Error> {
        Ok(Source::open(&input.into(), &self.options.limits)?.into_gguf())
    }

    /// Returns the plan of a load. Needs no device.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`] or [`Error::Model`].
    pub fn plan(&self, input: impl Into<Input>) -> Result<Planned, Error> {
        let source = Source::open(&input.into(), &self.options.limits)?;
        plan(&source, self.options.storage)
    }

    /// Compares the memory that a load of the model needs with the free memory of the device. Reads only the
    /// header of the file. Opens the device as [`prepare`](Self::prepare) does, because a GPU reports its free
    /// memory only then, and blocks until it is open.
    ///
    /// A model that does not fit is no error: see [`Fit::short_by`].
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan) and [`prepare`](Self::prepare).
    pub fn fits(&mut self, input: impl Into<Input>) -> Result<Fit, Error> {
        self.options.check()?;
        // The source stays open until the end: its header takes memory during a load, too.
        let source = Source::open(&input.into(), &self.options.limits)?;
        let planned = plan(&source, self.options.storage)?;
        let wanted = Wanted { device_bytes: None, ..Wanted::by(&planned.plan) };
        let (session, _) = self.sessions.get(&self.options, wanted, &CancelToken::new())?;
        let needs = session.needs(&planned.plan, &self.options);
        Ok(Fit::new(planned, &needs, session.device.memory()?))
    }

    /// Loads the model into device memory.
    ///
    /// If the load fails or is cancelled, or the observer panics, all memory of this load is freed before this
    /// returns.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    pub fn load(
        &mut self,
        input: impl Into<Input>,
        observer: &mut dyn Observer,
    ) -> Result<LoadedModel, Error> {
        self.load_cancellable(input, observer, &CancelToken::new())
    }

    /// Loads the model of a file that is already open, as [`load`](Self::load) does. The position of the
    /// file's cursor is not used. See [`Input`] for how changes of the file are detected.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    pub fn load_file(
        &mut self,
        file: File,
        observer: &mut dyn Observer,
    ) -> Result<LoadedModel, Error> {
        self.load(file, observer)
    }

    /// Loads the model as [`load`](Self::load) does, until `token` is cancelled.
    ///
    /// If the token is cancelled before this returns, the load frees its memory and fails with
    /// [`Error::Cancelled`]. Opening a device is not interrupted: it continues, and the next load of this
    /// loader uses the device.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    pub fn load_cancellable(
        &mut self,
        input: impl Into<Input>,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        self.load_input(&input.into(), observer, token)
    }

    #[tracing::instrument(name = "load", level = "info", skip_all, fields(
        path = %input,
        storage = %self.options.storage,
        verify = %self.options.verify,
        device = tracing::field::Empty,
    ))]
    fn load_input(
        &mut self,
        input: &Input,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        let mut observer = Cancellable { observer, token };
        let result = self.load_with_session(input, &mut observer, token);
        if let Err(Error::Engine(_) | Error::InsufficientMemory(_)) = &result {
            // The state of a failed device is unknown. If the device is full, closing the session frees
            // its memory.
            self.sessions.close();
        }
        result.inspect_err(log_failure)
    }

    fn load_with_session(
        &mut self,
        input: &Input,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        self.options.check()?;
        token.check()?;
        let start = Instant::now();
        let source = Source::open_settled(input, &self.options.limits, token)?;
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
        let options = &self.options;
        let (planned, plan_seconds) = timed(|| plan(source, options.storage))?;
        announce(source, &planned, observer)?;
        let Planned { config, plan, warnings } = planned;

        let (session, opening) = self.sessions.get(options, Wanted::by(&plan), token)?;
        let needs = session.needs(&plan, options);
        let ((mut buffer, memory), allocate_seconds) = timed(|| session.allocate(&needs))?;
        let (device, device_name) = (session.device.kind(), session.name.as_str());
        let bytes = buffer.len();
        tracing::Span::current().record("device", tracing::field::display(device));
        emit(observer, &LoadEvent::Allocated { device, device_name: device_name.into(), bytes })?;

        let ((moved, scales), moving_seconds) =
            timed(|| transfer(session, source, options, &needs, &plan, &mut buffer, observer))?;
        let (residency, verify) = verify(options, source, &plan, &moved, &buffer, token)?;
        let suspects = SuspectWeights::among(&plan, &moved, &scales, options)?;
        // Must be the last check: it shows that all bytes were read from the file that was opened.
        source.check_unchanged()?;
        emit(observer, &LoadEvent::Verified { residency: Cow::Borrowed(&residency) })?;

        let weights = plan
            .weights(|slot| Ok(view(&plan, &buffer, slot)))
            .map_err(|error| Error::of_model(source.path(), error))?;
        let phases = Phases {
            seconds: start.elapsed().as_secs_f64(),
            parse_seconds,
            plan_seconds,
            context_seconds: opening.context_seconds,
            pin_seconds: opening.pin_seconds,
            allocate_seconds,
            prepare_seconds: moving_seconds - moved.seconds,
            transfer_seconds: moved.seconds + verify.residency_seconds,
            verify_seconds: verify.seconds,
        };
        let SuspectWeights { non_finite, all_zero } = suspects;
        let stats = LoadStats {
            device: session.device.kind(),
            device_name: session.name.clone(),
            vram_bytes: buffer.len(),
            source_bytes: moved.source_bytes,
            phases,
            transfer: transfer_figures(session.engine.config(), moved),
            proof: Proof { residency, memory, non_finite, warnings, all_zero },
        };
        log_stats(&stats);
        emit(observer, &LoadEvent::Finished { stats: Cow::Borrowed(&stats) })?;
        Ok(LoadedModel { config, plan, weights, buffer, stats, header: source.gguf().header() })
    }
}

/// Runs a step. Returns its result and its duration in seconds.
fn timed<T>(step: impl FnOnce() -> Result<T, Error>) -> Result<(T, f64), Error> {
    let start = Instant::now();
    let result = step()?;
    Ok((result, start.elapsed().as_secs_f64()))
}

fn plan(source: &Source, storage: Storage) -> Result<Planned, Error> {
    let gguf = source.gguf();
    let (config, plan) = LoadPlan::from_gguf(gguf.metadata(), gguf.tensors(), storage)
        .map_err(|error| Error::of_model(source.path(), error))?;
    let warnings = Warning::of(gguf, Some(&config));
    Ok(Planned { config, plan, warnings })
}

/// Reports the configuration, the warnings and the plan to the observer and the log.
fn announce(source: &Source, planned: &Planned, observer: &mut dyn Observer) -> Result<(), Error> {
    let Planned { config, plan, warnings } = planned;
    log_model(config, plan);
    let path = Cow::Borrowed(source.path());
    emit(observer, &LoadEvent::Opened { path, config: Cow::Borrowed(config) })?;
    for warning in warnings {
        tracing::warn!(code = warning.code(), "{warning}");
        emit(observer, &LoadEvent::Warned { warning: Cow::Borrowed(warning) })?;
    }
    emit(observer, &LoadEvent::Planned { plan: Cow::Borrowed(plan) })
}

/// Moves all weights into the arena. Also returns the scale factors that were multiplied into them.
fn transfer(
    session: &mut Session,
    source: &Source,
    options: &LoadOptions,
    needs: &MemoryNeeds,
    plan: &LoadPlan,
    arena: &mut DeviceBuffer,
    observer: &mut dyn Observer,
) -> Result<(Stats, Scales), Error> {
    session.will_convert(plan);
    let options = TransferOptions::of_load(options);
    let scales = Scales::read(plan, source)?;
    let moved = transfer::run(&mut session.engine, source, options, plan, &scales, arena, observer);
    let moved = moved.map_err(|error| match error {
        Error::Engine(error) => session.with_figures(error, needs),
        other => other,
    })?;
    Ok((moved, scales))
}

fn transfer_figures(config: EngineConfig, moved: Stats) -> TransferFigures {
    TransferFigures {
        io: moved.io,
        threads: moved.readers,
        depth: config.depth,
        chunk_bytes: config.chunk_bytes,
        read_bytes: config.read_bytes,
        chunks: moved.chunks,
        pinned: moved.pinned,
        timeline: moved.timeline,
    }
}

/// Durations of the verification.
struct VerifyTimes {
    seconds: f64,
    /// Part of `seconds`.
    residency_seconds: f64,
}

/// Runs the checks of the chosen verification level.
fn verify(
    options: &LoadOptions,
    source: &Source,
    plan: &LoadPlan,
    moved: &Stats,
    arena: &DeviceBuffer,
    token: &CancelToken,
) -> Result<(Residency, VerifyTimes), Error> {
    let start = Instant::now();
    checks::all_moved(plan, moved.source_bytes, moved.operations.len())?;
    if options.verify >= Verify::Checksum {
        checks::digests_agree(plan, &moved.operations)?;
    }
    let (residency, residency_seconds) = timed(|| residency::check(plan, arena))?;
    if options.verify >= Verify::Readback {
        readback::compare(plan, source, arena, token)?;
    }
    Ok((residency, VerifyTimes { seconds: start.elapsed().as_secs_f64(), residency_seconds }))
}

/// Loaded tensors whose weights may be wrong.
struct SuspectWeights {
    non_finite: Vec<NonFiniteTensor>,
    all_zero: Vec<AllZeroTensor>,
}

impl SuspectWeights {
    /// Finds and logs suspect weights. Fails if the options refuse them.
    fn among(
        plan: &LoadPlan,
        moved: &Stats,
        scales: &Scales,
        options: &LoadOptions,
    ) -> Result<Self, Error> {
        let non_finite = checks::non_finite(plan, &moved.operations);
        if options.deny_overflow && !non_finite.is_empty() {
            return Err(Error::NonFinite(non_finite));
        }
        for tensor in &non_finite {
            tracing::warn!("{tensor}");
        }
        let all_zero = checks::all_zero(plan, &moved.operations, scales);
        for tensor in &all_zero {
            tracing::warn!("{tensor}");
        }
        Ok(Self { non_finite, all_zero })
    }
}

fn log_model(config: &Phi3Config, plan: &LoadPlan) {
    tracing::info!(
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

fn log_stats(stats: &LoadStats) {
    tracing::info!(
        vram_bytes = stats.vram_bytes,
        seconds = stats.phases.seconds,
        transfer_seconds = stats.phases.transfer_seconds,
        gb_per_s = stats.gb_per_s(),
        "model resident"
    );
}

/// The target of the event of a failed load. A program that prints the returned error itself can filter it out.
const FAILURE_TARGET: &str = "loader::failure";

/// Logs a failed load. A cancelled load is no error.
fn log_failure(error: &Error) {
    let (code, class) = (error.code(), error.class().name());
    if matches!(error, Error::Cancelled) {
        tracing::info!(code, class, "load cancelled");
    } else {
        let retriable = error.retriable();
        tracing::error!(target: FAILURE_TARGET, code, class, retriable, "load failed: {error}");
    }
}
