//! The devices, staging ring and engine that a loader keeps between loads.

use crate::background::Background;
use crate::cancel::CancelToken;
use crate::devices::Devices;
use crate::engine_config::engine_config;
use crate::error::Error;
use crate::memory_account::MemoryAccount;
use crate::memory_needs::MemoryNeeds;
use crate::model::LoadedModel;
use crate::options::LoadOptions;
use crate::part::{LoadedPart, PartsOf};
use crate::transfer::least_chunk_bytes;
use crate::{host_memory, reuse, threads};
use cuda_sys::{Device, DeviceBuffer, DeviceKind, Engine, ErrorCode, MemoryInfo, StagingRing};
use model_phi3::{Conversion, Phi3Config, PlacedPart, PlacedPlan};
use std::sync::Arc;
use std::time::Instant;

/// The session of a loader, which may not exist yet, be open, or be opening in the background.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Option<Session>,
    /// The opening that a cancelled load started and did not wait for.
    opening: Option<Background<Opened>>,
    /// The same, for devices alone.
    opening_devices: Option<Background<Result<Vec<Device>, Error>>>,
}

type Opened = Result<(Session, Opening), Error>;

impl Sessions {
    /// Returns the open session, or opens one if none is open or its chunks are too small for the model. Also returns
    /// the time that this call spent on opening it.
    pub(crate) fn get(
        &mut self,
        options: &LoadOptions,
        wanted: &Wanted,
        token: &CancelToken,
    ) -> Result<(&mut Session, Opening), Error> {
        let is_enough =
            |session: &Session| session.engine.config().chunk_bytes >= wanted.least_chunk_bytes;
        if let Some(session) = self.open.take().filter(is_enough) {
            return Ok((self.open.insert(session), Opening::default()));
        }
        let waiting = Instant::now();
        // An opening that a cancelled load started may be for another model.
        loop {
            let (session, opening) = self.wait_for_new(options, wanted.clone(), token)?;
            if is_enough(&session) {
                let opening = opening.last(waiting.elapsed().as_secs_f64());
                return Ok((self.open.insert(session), opening));
            }
        }
    }

    /// Starts to open a session, unless one is open or being opened.
    pub(crate) fn start_opening(&mut self, options: &LoadOptions, wanted: Wanted) {
        if self.open.is_none() && self.opening.is_none() {
            self.opening = Some(begin(options, wanted));
        }
    }

    /// Opens devices without the rest of a session. If the token is cancelled, the opening goes on.
    pub(crate) fn open_devices(
        &mut self,
        devices: &Devices,
        token: &CancelToken,
    ) -> Result<Vec<Device>, Error> {
        let (devices, span) = (devices.clone(), tracing::Span::current());
        let open = move || span.in_scope(|| open_all(&devices));
        let opened = self
            .opening_devices
            .insert(Background::start(open))
            .wait(token)
            .ok_or(Error::Cancelled)?;
        self.opening_devices = None;
        opened
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
        let opened =
            self.opening.insert(begin(options, wanted)).wait(token).ok_or(Error::Cancelled)?;
        self.opening = None;
        opened
    }
}

/// Opens a session on another thread.
fn begin(options: &LoadOptions, wanted: Wanted) -> Background<Opened> {
    let (options, span) = (options.clone(), tracing::Span::current());
    Background::start(move || span.in_scope(|| Session::open(&options, &wanted)))
}

/// Sizes of the model that a new session will load first.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) source_bytes: u64,
    /// Bytes of each part; `None` if the model is not known yet.
    pub(crate) arenas: Option<Vec<u64>>,
    /// The size of the smallest chunks with which the model can be loaded.
    pub(crate) least_chunk_bytes: u64,
}

impl Wanted {
    /// Returns the sizes for a session that is opened before its first model is known.
    pub(crate) const UNKNOWN: Self =
        Self { source_bytes: u64::MAX, arenas: None, least_chunk_bytes: 0 };

    pub(crate) fn by(plan: &PlacedPlan) -> Self {
        let arenas = plan.parts().iter().map(PlacedPart::device_bytes).collect();
        Self {
            source_bytes: plan.source_bytes(),
            arenas: Some(arenas),
            least_chunk_bytes: least_chunk_bytes(plan),
        }
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

/// Open devices with their engine.
#[derive(Debug)]
pub(crate) struct Session {
    /// One for each lane of the engine: the devices of the parts, then the helpers.
    opened: Vec<Device>,
    /// The devices of the parts, and their names.
    pub(crate) devices: Devices,
    pub(crate) names: Vec<String>,
    pub(crate) engine: Engine,
    /// For each lane, whether the engine has allocated its own memory on the device, which it keeps.
    staged: Vec<bool>,
}

impl Session {
    fn open(options: &LoadOptions, wanted: &Wanted) -> Result<(Self, Opening), Error> {
        let start = Instant::now();
        let devices = Devices::resolve(&options.devices);
        let lanes = Devices::resolve(&[&options.devices[..], &options.via[..]].concat());
        let config = engine_config(options, &lanes, wanted);
        if let Some(arenas) = &wanted.arenas
            && devices.contains(&DeviceKind::Host)
        {
            // The ring and weights on the host share its memory, so check both before making the ring.
            let needs = needs_of(&devices, arenas, DeviceKind::Host, options);
            let needs = MemoryNeeds { staging: config.ring_bytes(), ..needs };
            needs.check_before(Device::open(DeviceKind::Host)?.memory()?)?;
        }
        // Allocate the ring and write to its pages while the devices open, which usually takes longer.
        let (opened, context_seconds, ring) = std::thread::scope(|scope| {
            let make = move || StagingRing::new(config);
            let room = host_memory::room_for_threads(1, config.ring_bytes()) == 1;
            let ring = room.then(|| threads::builder().spawn_scoped(scope, make));
            let opened = open_all(&lanes);
            let context_seconds = start.elapsed().as_secs_f64();
            let ring = match ring.and_then(Result::ok) {
                Some(ring) => threads::joined(ring),
                // The thread could not be started.
                None => make(),
            };
            (opened, context_seconds, ring)
        });
        let opened = opened?;
        let lanes: Vec<_> = opened.iter().collect();
        let (of_parts, helpers) = lanes.split_at(devices.len());
        let names = of_parts.iter().map(|device| device.name()).collect::<Result<Vec<_>, _>>()?;
        let engine = Engine::with_helpers(of_parts, helpers, ring?)?;
        tracing::info!(
            device = %devices,
            via = %Devices::new(helpers.iter().map(|helper| helper.kind())),
            name = names.join(", "),
            readers = config.readers,
            storage_readers = config.storage_readers,
            depth = config.depth,
            chunk_bytes = config.chunk_bytes,
            read_bytes = config.read_bytes,
            "device open"
        );
        let pin_seconds = start.elapsed().as_secs_f64() - context_seconds;
        let staged = vec![false; opened.len()];
        Ok((
            Self { opened, devices, names, engine, staged },
            Opening { context_seconds, pin_seconds },
        ))
    }

    /// Returns the memory that a load of the plan needs on each device. The engine's own memory counts only until
    /// the engine has allocated it.
    pub(crate) fn needs(&self, plan: &PlacedPlan, options: &LoadOptions) -> Vec<MemoryNeeds> {
        let arenas: Vec<_> = plan.parts().iter().map(PlacedPart::device_bytes).collect();
        let unstaged = |lane: u32| match self.staged.get(lane as usize) {
            Some(true) => 0,
            _ => self.engine.conversion_bytes(lane),
        };
        let conversion = |lane, part| if needs_staging(plan, part) { unstaged(lane) } else { 0 };
        let of_parts = |device| {
            let lanes = (0..).zip(&*self.devices).zip(plan.parts());
            let here = lanes.filter(|((_, of_lane), _)| **of_lane == device);
            let conversions = here.map(|((lane, _), part)| conversion(lane, part));
            MemoryNeeds {
                conversion: conversions.fold(0, u64::saturating_add),
                ..needs_of(&self.devices, &arenas, device, options)
            }
        };
        let helpers = (0..).zip(&self.opened).skip(self.devices.len());
        let of_helper = |(lane, helper): (u32, &Device)| MemoryNeeds {
            device: helper.kind(),
            arena: 0,
            conversion: unstaged(lane),
            staging: 0,
            reserve: 0,
            limit: None,
        };
        let parts = self.devices.distinct().into_iter().map(of_parts);
        parts.chain(helpers.map(of_helper)).collect()
    }

    /// Records that the engine allocates its own memory on the devices. Call this before the transfer of the
    /// plan. If the transfer fails, the loader closes the session.
    pub(crate) fn will_stage(&mut self, plan: &PlacedPlan) {
        let (of_parts, of_helpers) = self.staged.split_at_mut(self.devices.len());
        for (staged, part) in of_parts.iter_mut().zip(plan.parts()) {
            *staged |= needs_staging(plan, part);
        }
        of_helpers.fill(true);
    }

    /// Returns the memory of a device of this session.
    pub(crate) fn memory(&self, device: DeviceKind) -> Result<Option<MemoryInfo>, Error> {
        match self.opened.iter().find(|opened| opened.kind() == device) {
            Some(opened) => Ok(opened.memory()?),
            None => Ok(None),
        }
    }

    /// Makes one allocation for each part, after the memory of all devices was checked. Reads the free memory of each
    /// device before and after that. `earlier` is a model whose memory is reused or freed; if the check fails, it stays
    /// as it is.
    pub(crate) fn allocate(
        &self,
        plan: &PlacedPlan,
        needs: &[MemoryNeeds],
        shareable: bool,
        earlier: &mut Option<LoadedModel>,
    ) -> Result<Allocated, Error> {
        let read = || {
            let of_each = needs.iter().map(|needs| self.memory(needs.device));
            of_each.collect::<Result<Vec<_>, _>>()
        };
        let before = read()?;
        for (needs, memory) in needs.iter().zip(&before) {
            let freed = earlier.as_ref().map_or(0, |model| reuse::bytes_on(model, needs.device));
            let memory = memory.map(|memory| memory.with_free(memory.free.saturating_add(freed)));
            needs.check_before(memory)?;
        }
        let mut reused = earlier.take().map_or_else(Vec::new, |model| {
            reuse::buffers(model, &self.devices, plan.parts(), shareable)
        });
        reused.resize_with(plan.parts().len(), || None);
        let mut buffers = Vec::new();
        for ((device, part), reused) in self.opened.iter().zip(plan.parts()).zip(reused) {
            let bytes = part.device_bytes();
            let buffer = match reused {
                // Mapping memory again takes time.
                Some(buffer) if buffer.len() == bytes && buffer.is_writable() => Ok(buffer),
                Some(mut buffer) => buffer.resize(bytes).map(|()| buffer),
                None if shareable => device.allocate_shareable(bytes),
                None => device.allocate(bytes),
            };
            buffers.push(buffer.map_err(|error| self.with_figures(error, device.kind(), needs))?);
        }
        let after: Vec<_> = read()?;
        let mut accounts = Vec::new();
        for (needs, (before, after)) in needs.iter().zip(before.into_iter().zip(after)) {
            let account = MemoryAccount::between(before, after);
            if let Some(account) = &account {
                account.check(needs.device, needs.arena)?;
            }
            needs.check_after(after)?;
            if self.devices.contains(&needs.device) {
                accounts.push((needs.device, account));
            }
        }
        Ok(Allocated { buffers, accounts })
    }

    /// Returns the parts of a model, in these buffers.
    pub(crate) fn parts(
        &self,
        config: Phi3Config,
        plan: PlacedPlan,
        buffers: Vec<DeviceBuffer>,
    ) -> Result<(Arc<PartsOf>, Vec<LoadedPart>), Error> {
        PartsOf::new(config, plan, &self.opened, buffers)
    }

    /// Adds the memory figures to an out-of-memory error of the transfer.
    pub(crate) fn with_figures_of_lane(
        &self,
        error: cuda_sys::Error,
        needs: &[MemoryNeeds],
    ) -> Error {
        let lane = error.lane().and_then(|lane| usize::try_from(lane).ok());
        let alone = self.devices.single().filter(|_| self.opened.len() == 1);
        match alone.or_else(|| Some(self.opened.get(lane?)?.kind())) {
            Some(device) => self.with_figures(error, device, needs),
            None => Error::Engine(error),
        }
    }

    /// Adds the memory figures to an out-of-memory error of a device. It can occur although the free memory
    /// was checked, because other processes allocate memory at the same time.
    fn with_figures(
        &self,
        error: cuda_sys::Error,
        device: DeviceKind,
        needs: &[MemoryNeeds],
    ) -> Error {
        // Shareable memory of the host is a file, whose size is limited apart from memory.
        const EFBIG: i32 = 27;
        if (device, error.status()) == (DeviceKind::Host, EFBIG) {
            return Error::HostMemory { what: error.context().to_owned() };
        }
        let needs = needs.iter().find(|needs| needs.device == device);
        match (error.code(), self.memory(device), needs) {
            (ErrorCode::OutOfMemory, Ok(memory), Some(needs)) => needs.refused(memory),
            _ => Error::Engine(error),
        }
    }
}

/// The allocations for a model.
pub(crate) struct Allocated {
    /// One for each part.
    pub(crate) buffers: Vec<DeviceBuffer>,
    /// The free memory of each device, before and after.
    pub(crate) accounts: Vec<(DeviceKind, Option<MemoryAccount>)>,
}

/// Opens the devices side by side. Creating the context of a GPU takes several hundred milliseconds.
fn open_all(devices: &Devices) -> Result<Vec<Device>, Error> {
    let [first, others @ ..] = &**devices else { return Ok(Vec::new()) };
    if others.is_empty() {
        return Ok(vec![Device::open(*first)?]);
    }
    let opened = std::thread::scope(|scope| {
        let room = host_memory::room_for_threads(others.len(), 0);
        let start = |(index, &device): (usize, &DeviceKind)| {
            let open = move || Device::open(device);
            let thread = (index < room).then(|| threads::builder().spawn_scoped(scope, open));
            (thread.and_then(Result::ok), open)
        };
        let started: Vec<_> = others.iter().enumerate().map(start).collect();
        let first = Device::open(*first);
        let rest = started.into_iter().map(|(thread, open)| match thread {
            Some(thread) => threads::joined(thread),
            // The thread could not be started.
            None => open(),
        });
        std::iter::once(first).chain(rest).collect::<Result<_, _>>()
    });
    Ok(opened?)
}

/// Returns the needs of a device for weights alone. Parts on the same device count together.
fn needs_of(
    devices: &Devices,
    arenas: &[u64],
    device: DeviceKind,
    options: &LoadOptions,
) -> MemoryNeeds {
    let here = devices.iter().zip(arenas).filter(|(of_part, _)| **of_part == device);
    let is_limited = devices.is_limited(device);
    MemoryNeeds {
        device,
        arena: here.map(|(_, bytes)| *bytes).fold(0, u64::saturating_add),
        conversion: 0,
        staging: 0,
        reserve: if is_limited { options.reserve } else { 0 },
        limit: options.vram_limit.filter(|_| is_limited),
    }
}

/// Returns whether the engine may allocate memory on a device in addition to the arena: to convert, or to hand on
/// bytes that several devices need.
fn needs_staging(plan: &PlacedPlan, part: &PlacedPart) -> bool {
    let of_parts = plan.parts().iter().map(PlacedPart::source_bytes);
    let shares = of_parts.fold(0, u64::saturating_add) > plan.source_bytes();
    shares || part.ops().iter().any(|op| op.conversion != Conversion::Copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DeviceChoice;
    use crate::test_plan;
    use model_phi3::SplitMode;

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
        let wanted = Wanted { source_bytes: 1, arenas: Some(vec![1]), ..Wanted::UNKNOWN };
        let begun_for = wanted.clone();
        let begun = Background::start(move || {
            let (session, _) = Session::open(&begun_by, &begun_for)?;
            Ok((session, Opening { context_seconds: 1e6, pin_seconds: 1e6 }))
        });
        let mut sessions = Sessions { opening: Some(begun), ..Sessions::default() };
        let start = Instant::now();
        let (_, opening) = sessions.get(&options, &wanted, &CancelToken::new()).unwrap();
        let most = start.elapsed().as_secs_f64();
        assert!(opening.pin_seconds > 0.0, "the session that was being opened is used");
        assert!(opening.context_seconds >= 0.0);
        assert!(opening.context_seconds + opening.pin_seconds <= most, "{opening:?}");
        let (_, again) = sessions.get(&options, &wanted, &CancelToken::new()).unwrap();
        assert_eq!((again.context_seconds, again.pin_seconds), (0.0, 0.0));
    }

    #[test]
    fn parts_on_one_device_count_together_and_limits_hold_for_each_gpu() {
        use DeviceKind::{Cuda, Host};
        let options = LoadOptions::new().reserve(7).vram_limit(100);
        let needs = |devices: &[DeviceKind], arenas: &[u64]| {
            let devices = Devices::new(devices.iter().copied());
            let of = |device| needs_of(&devices, arenas, device, &options);
            let needs = devices.distinct().into_iter().map(of);
            needs.map(|of| (of.device, of.arena, of.reserve, of.limit)).collect::<Vec<_>>()
        };
        let limit = Some(100);
        assert_eq!(needs(&[Host, Host], &[3, 4]), [(Host, 7, 7, limit)]);
        assert_eq!(
            needs(&[Cuda(1), Host, Cuda(0), Cuda(1)], &[90, 500, 80, 20]),
            [(Cuda(1), 110, 7, limit), (Host, 500, 0, None), (Cuda(0), 80, 7, limit)]
        );
    }

    #[test]
    fn a_device_that_cannot_hold_its_part_refuses_the_load_before_any_allocation() {
        let options = LoadOptions::new().devices([DeviceChoice::Host; 2]);
        let (session, _) = Session::open(&options, &Wanted::UNKNOWN).unwrap();
        let plan = test_plan::tiny_on_two(SplitMode::Layer);
        let needs = session.needs(&plan, &options);
        assert_eq!(needs.len(), 1, "both parts are on one device");
        assert_eq!(needs[0].arena, plan.device_bytes());
        let allocated = session.allocate(&plan, &needs, false, &mut None).unwrap();
        let sizes = plan.parts().iter().map(PlacedPart::device_bytes);
        assert!(allocated.buffers.iter().map(DeviceBuffer::len).eq(sizes));
        // Another device, for which nothing can be allocated, is checked as well.
        let full = MemoryNeeds { device: DeviceKind::Cuda(7), limit: Some(9), ..needs[0] };
        let error =
            session.allocate(&plan, &[needs[0], full], false, &mut None).map(drop).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
        assert!(error.to_string().starts_with("cuda:7 cannot hold the weights"), "{error}");
    }
}
