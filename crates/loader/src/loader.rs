//! The steps of a load.

use crate::cancel::{CancelToken, Cancellable};
use crate::checks::Moved;
use crate::devices::Devices;
use crate::error::{Error, NonFiniteTensor};
use crate::event::{LoadEvent, Observer};
use crate::fit::{DeviceFit, Fit};
use crate::input::Input;
use crate::memory_account::MemoryAccount;
use crate::memory_needs::MemoryNeeds;
use crate::model::LoadedModel;
use crate::options::{LoadOptions, Verify};
use crate::part::LoadedPart;
use crate::residency::Residency;
use crate::scales::Scales;
use crate::session::{Allocated, Session, Sessions, Wanted};
use crate::source::Source;
use crate::stats::{
    AllZeroTensor, LinkFigures, LoadStats, PartStats, Phases, Proof, Resident, TransferFigures,
};
use crate::transfer::TransferOptions;
use crate::warning::Warning;
use crate::{readback, residency, transfer};
use cuda_sys::{DeviceKind, Engine, Stats};
use gguf_format::{ByteSource, GgufFile};
use model_phi3::{Phi3Config, PlacedPart, PlacedPlan, Placement, Storage};
use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Loads models. Keeps its devices and its staging memory between loads.
///
/// A loader can be moved to other threads (`Send`). A load borrows it mutably. Loaders of different threads do
/// not block each other. If a load was cancelled while the device was being opened, dropping the loader waits
/// until the device is open.
#[derive(Debug)]
pub struct Loader {
    pub(crate) options: LoadOptions,
    pub(crate) sessions: Sessions,
}

/// The configuration of a file's model, and the plan of its load. Made without a device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Planned {
    /// The model's configuration.
    pub config: Phi3Config,
    /// The plan. [`whole`](PlacedPlan::whole) is that of a load to one device.
    pub plan: PlacedPlan,
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

    /// Opens the devices and makes the staging memory, so that the first load need not. Creating the context of
    /// a GPU takes several hundred milliseconds; several are created side by side. Blocks until all devices are open,
    /// and returns them.
    ///
    /// # Errors
    ///
    /// An error with the code `INVALID_OPTION`. [`Error::Engine`] if a device cannot be opened, or the host has too
    /// little memory for staging.
    pub fn prepare(&mut self) -> Result<Devices, Error> {
        self.options.check()?;
        let (session, _) =
            self.sessions.get(&self.options, &Wanted::UNKNOWN, &CancelToken::new())?;
        Ok(session.devices.clone())
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
    /// [`Error::Gguf`] or [`Error::Model`]. An error with the code `INVALID_OPTION` if the placement is not for the
    /// number of devices.
    pub fn plan(&self, input: impl Into<Input>) -> Result<Planned, Error> {
        let source = Source::open(&input.into(), &self.options.limits)?;
        plan(&source, &self.options)
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
        let planned = plan(&source, &self.options)?;
        let wanted = Wanted { arenas: None, ..Wanted::by(&planned.plan) };
        let (session, _) = self.sessions.get(&self.options, &wanted, &CancelToken::new())?;
        let needs = session.needs(&planned.plan, &self.options);
        let devices = needs
            .iter()
            .map(|needs| Ok(DeviceFit::new(needs, session.memory(needs.device)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Fit::new(planned, session.devices.clone(), devices))
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

    fn load_input(
        &mut self,
        input: &Input,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        self.run(input, observer, token, |loader, load| {
            loader.move_weights(load, loader.options.shareable, &mut None)
        })
    }

    /// Opens and plans the model of a file, and does the work that gets its weights to the devices.
    #[tracing::instrument(name = "load", level = "info", skip_all, fields(
        path = %input,
        storage = %self.options.storage,
        verify = %self.options.verify,
        device = tracing::field::Empty,
    ))]
    pub(crate) fn run(
        &mut self,
        input: &Input,
        observer: &mut dyn Observer,
        token: &CancelToken,
        work: impl FnOnce(&mut Self, &mut Load<'_>) -> Result<LoadedModel, Error>,
    ) -> Result<LoadedModel, Error> {
        let mut observer = Cancellable { observer, token };
        let result = self.run_with_source(input, &mut observer, token, work);
        if let Err(Error::Engine(_) | Error::InsufficientMemory(_)) = &result {
            // The state of a failed device is unknown. If the device is full, closing the session frees
            // its memory.
            self.sessions.close();
        }
        result.inspect_err(log_failure)
    }

    fn run_with_source(
        &mut self,
        input: &Input,
        observer: &mut dyn Observer,
        token: &CancelToken,
        work: impl FnOnce(&mut Self, &mut Load<'_>) -> Result<LoadedModel, Error>,
    ) -> Result<LoadedModel, Error> {
        self.options.check()?;
        token.check()?;
        let start = Instant::now();
        let source = Source::open_settled(input, &self.options.limits, token)?;
        let parse_seconds = start.elapsed().as_secs_f64();
        let loaded = (|| {
            let (planned, plan_seconds) = timed(|| plan(&source, &self.options))?;
            announce(source.path(), &planned, observer)?;
            let times = EarlyTimes { start, parse_seconds, plan_seconds, driver_seconds: 0.0 };
            let mut load = Load { source: &source, planned, times, observer, token };
            let model = work(self, &mut load)?;
            finish(model, load.observer)
        })();
        loaded.map_err(|error| source.explain(error))
    }

    /// Allocates memory and loads the weights of the file. `earlier` is a model whose memory is reused; it is still there
    /// if this fails before its weights are gone.
    pub(crate) fn move_weights(
        &mut self,
        load: &mut Load<'_>,
        shareable: bool,
        earlier: &mut Option<LoadedModel>,
    ) -> Result<LoadedModel, Error> {
        let options = &self.options;
        let Load { source, planned, times, observer, token } = load;
        let Planned { config, plan, warnings } = planned.clone();

        let (session, opening) = self.sessions.get(options, &Wanted::by(&plan), token)?;
        let needs = session.needs(&plan, options);
        let shareable = shareable || options.protect;
        let (Allocated { buffers, accounts }, allocate_seconds) =
            timed(|| session.allocate(&plan, &needs, shareable, earlier))?;
        let (of, mut parts) = session.parts(config, plan, buffers)?;
        tracing::Span::current().record("device", tracing::field::display(&of.devices));
        announce_memory(&parts, *observer)?;

        let plan = &of.plan;
        let ((moved, scales), moving_seconds) =
            timed(|| transfer(session, source, options, &needs, plan, &mut parts, *observer))?;
        let moves = transfer::moves(plan);
        let reported =
            Moved { moves: &moves, reports: &moved.operations, devices: &session.devices };
        reported.check_complete(moved.source_bytes, plan.source_bytes())?;
        let (residencies, verify) = verify(options, source, &reported, &parts, *observer, token)?;
        let suspects = SuspectWeights::among(&reported, plan, &scales, options)?;
        if options.protect {
            parts.iter_mut().try_for_each(|part| part.buffer.protect())?;
        }
        // Must be the last check: it shows that all bytes were read from the file that was opened.
        source.check_unchanged()?;
        let residency = Residency::sum(&residencies);
        emit(*observer, &LoadEvent::Verified { residency: Cow::Borrowed(&residency) })?;

        let phases = Phases {
            seconds: times.start.elapsed().as_secs_f64(),
            parse_seconds: times.parse_seconds,
            plan_seconds: times.plan_seconds,
            context_seconds: times.driver_seconds + opening.context_seconds,
            pin_seconds: opening.pin_seconds,
            allocate_seconds,
            prepare_seconds: moving_seconds - moved.seconds,
            transfer_seconds: moved.seconds + verify.residency_seconds,
            verify_seconds: verify.seconds,
        };
        let SuspectWeights { non_finite, all_zero } = suspects;
        let memory = MemoryAccount::sum(accounts.iter().map(|(_, account)| *account));
        let stats = LoadStats {
            device: session.devices.clone(),
            device_name: session.names.join(", "),
            vram_bytes: residency.vram_bytes,
            source_bytes: moved.source_bytes,
            split_mode: plan.placement().mode(),
            resident: Resident::Off,
            resident_key: None,
            parts: part_stats(&parts, residencies, &accounts, PlacedPart::source_bytes),
            phases,
            transfer: transfer_figures(&session.engine, plan, moved),
            proof: Proof { residency, memory, non_finite, warnings, all_zero },
        };
        Ok(LoadedModel::new(of, parts, stats, source.gguf().header(), source.model_files()))
    }
}

/// A load whose file is open and whose plan is complete.
pub(crate) struct Load<'a> {
    pub(crate) source: &'a Source,
    pub(crate) planned: Planned,
    pub(crate) times: EarlyTimes,
    pub(crate) observer: &'a mut dyn Observer,
    pub(crate) token: &'a CancelToken,
}

/// The start of a load, and the seconds of the steps before its devices are opened.
#[derive(Clone, Copy)]
pub(crate) struct EarlyTimes {
    pub(crate) start: Instant,
    pub(crate) parse_seconds: f64,
    pub(crate) plan_seconds: f64,
    /// Asking the driver which devices there are.
    pub(crate) driver_seconds: f64,
}

/// Reports that a model is complete.
pub(crate) fn finish(
    model: LoadedModel,
    observer: &mut dyn Observer,
) -> Result<LoadedModel, Error> {
    log_stats(&model.stats);
    emit(observer, &LoadEvent::Finished { stats: Cow::Borrowed(&model.stats) })?;
    Ok(model)
}

/// Reports the memory of each device.
pub(crate) fn announce_memory(
    parts: &[LoadedPart],
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    for part in parts {
        let (device, bytes) = (part.device(), part.vram_bytes());
        let device_name = part.device_name().into();
        emit(observer, &LoadEvent::Allocated { device, device_name, bytes })?;
    }
    Ok(())
}

/// Runs a step. Returns its result and its duration in seconds.
pub(crate) fn timed<T>(step: impl FnOnce() -> Result<T, Error>) -> Result<(T, f64), Error> {
    let start = Instant::now();
    let result = step()?;
    Ok((result, start.elapsed().as_secs_f64()))
}

fn plan(source: &Source, options: &LoadOptions) -> Result<Planned, Error> {
    let placement = options.placement_of_devices()?;
    Planned::of(source.gguf(), options.storage, &placement)
        .map_err(|error| Error::of_model(source.path(), error))
}

impl Planned {
    pub(crate) fn of<S: ByteSource>(
        gguf: &GgufFile<S>,
        storage: Storage,
        placement: &Placement,
    ) -> Result<Self, model_phi3::Error> {
        let (metadata, tensors) = (gguf.metadata(), gguf.tensors());
        let (config, plan) = PlacedPlan::from_gguf(metadata, tensors, storage, placement)?;
        let warnings = Warning::of(gguf, Some(&config));
        Ok(Self { config, plan, warnings })
    }
}

/// Reports the configuration, the warnings and the plan to the observer and the log.
pub(crate) fn announce(
    path: &Path,
    planned: &Planned,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let Planned { config, plan, warnings } = planned;
    log_model(config, plan);
    let path = Cow::Borrowed(path);
    emit(observer, &LoadEvent::Opened { path, config: Cow::Borrowed(config) })?;
    for warning in warnings {
        tracing::warn!(code = warning.code(), "{warning}");
        emit(observer, &LoadEvent::Warned { warning: Cow::Borrowed(warning) })?;
    }
    emit(observer, &LoadEvent::Planned { plan: Cow::Borrowed(plan) })
}

/// Moves all weights to their devices. Also returns the scale factors that were multiplied into them.
fn transfer(
    session: &mut Session,
    source: &Source,
    options: &LoadOptions,
    needs: &[MemoryNeeds],
    plan: &PlacedPlan,
    parts: &mut [LoadedPart],
    observer: &mut dyn Observer,
) -> Result<(Stats, Scales), Error> {
    session.will_stage(plan);
    let options = TransferOptions::of_load(options);
    let scales = Scales::read(plan.whole(), source)?;
    let mut arenas: Vec<_> = parts.iter_mut().map(|part| &mut part.buffer).collect();
    let engine = &mut session.engine;
    let moved = transfer::run(engine, source, options, plan, &scales, &mut arenas, observer);
    let moved = moved.map_err(|error| match error {
        Error::Engine(error) => session.with_figures_of_lane(error, needs),
        other => other,
    })?;
    Ok((moved, scales))
}

pub(crate) fn part_stats(
    parts: &[LoadedPart],
    residencies: Vec<Residency>,
    accounts: &[(DeviceKind, Option<MemoryAccount>)],
    source_bytes: fn(&PlacedPart) -> u64,
) -> Vec<PartStats> {
    let of_device = |device| accounts.iter().find(|(of, _)| *of == device);
    let stats = |(part, residency): (&LoadedPart, Residency)| PartStats {
        device: part.device(),
        device_name: part.device_name().to_owned(),
        vram_bytes: part.vram_bytes(),
        source_bytes: source_bytes(part.plan()),
        residency,
        memory: of_device(part.device()).and_then(|(_, account)| *account),
        slots: part.plan().slots().to_vec(),
    };
    parts.iter().zip(residencies).map(stats).collect()
}

fn transfer_figures(engine: &Engine, plan: &PlacedPlan, moved: Stats) -> TransferFigures {
    let config = engine.config();
    let link = |(&device, bytes)| LinkFigures { device, bytes };
    TransferFigures {
        io: moved.io,
        threads: moved.readers,
        depth: config.depth,
        chunk_bytes: config.chunk_bytes,
        read_bytes: config.read_bytes,
        chunks: moved.chunks,
        pinned: moved.pinned,
        links: engine.devices().iter().zip(moved.link_bytes).map(link).collect(),
        timeline_tensors: match moved.timeline[..] {
            [] => Vec::new(),
            _ => transfer::moves(plan).iter().map(|of| Arc::clone(&of.op.tensor)).collect(),
        },
        timeline: moved.timeline,
    }
}

/// Durations of the verification.
struct VerifyTimes {
    seconds: f64,
    /// Part of `seconds`.
    residency_seconds: f64,
}

/// Runs the checks of the chosen verification level. Returns the residency of each part.
fn verify(
    options: &LoadOptions,
    source: &Source,
    moved: &Moved<'_>,
    parts: &[LoadedPart],
    observer: &mut dyn Observer,
    token: &CancelToken,
) -> Result<(Vec<Residency>, VerifyTimes), Error> {
    let start = Instant::now();
    if options.verify >= Verify::Checksum {
        moved.check_digests()?;
    }
    let (residencies, residency_seconds) =
        timed(|| parts.iter().map(residency::check).collect::<Result<_, _>>())?;
    if options.verify >= Verify::Readback {
        readback::compare(parts, source, observer, token)?;
    }
    Ok((residencies, VerifyTimes { seconds: start.elapsed().as_secs_f64(), residency_seconds }))
}

/// Loaded tensors whose weights may be wrong.
struct SuspectWeights {
    non_finite: Vec<NonFiniteTensor>,
    all_zero: Vec<AllZeroTensor>,
}

impl SuspectWeights {
    /// Finds and logs suspect weights. Fails if the options refuse them.
    fn among(
        moved: &Moved<'_>,
        plan: &PlacedPlan,
        scales: &Scales,
        options: &LoadOptions,
    ) -> Result<Self, Error> {
        let non_finite = moved.non_finite();
        if options.deny_overflow && !non_finite.is_empty() {
            return Err(Error::NonFinite(non_finite));
        }
        for tensor in &non_finite {
            tracing::warn!("{tensor}");
        }
        let all_zero = moved.all_zero(plan.whole(), scales);
        for tensor in &all_zero {
            tracing::warn!("{tensor}");
        }
        Ok(Self { non_finite, all_zero })
    }
}

fn log_model(config: &Phi3Config, plan: &PlacedPlan) {
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

pub(crate) fn emit(observer: &mut dyn Observer, event: &LoadEvent<'_>) -> Result<(), Error> {
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
        attached = stats.resident == Resident::Attached,
        key = stats.resident_key,
        "model resident"
    );
}

/// The target of the event of a failed load. A program that prints the returned error itself can filter it out.
const FAILURE_TARGET: &str = "loader::failure";

/// Logs a failed load. A cancelled load is no error.
pub(crate) fn log_failure(error: &Error) {
    let (code, class) = (error.code(), error.class().name());
    if matches!(error, Error::Cancelled) {
        tracing::info!(code, class, "load cancelled");
    } else {
        let retriable = error.retriable();
        tracing::error!(target: FAILURE_TARGET, code, class, retriable, "load failed: {error}");
    }
}
