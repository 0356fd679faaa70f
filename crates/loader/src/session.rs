//! The device, staging ring and engine that a loader keeps between loads.

use crate::background::Background;
use crate::cancel::CancelToken;
use crate::engine_config::engine_config;
use crate::error::Error;
use crate::memory_account::MemoryAccount;
use crate::memory_needs::MemoryNeeds;
use crate::options::LoadOptions;
use crate::{host_memory, threads};
use cuda_sys::{Device, DeviceBuffer, DeviceKind, Engine, ErrorCode, StagingRing};
use model_phi3::{Conversion, LoadPlan};
use std::time::Instant;

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

    /// Starts to open a session, unless one is open or being opened.
    pub(crate) fn start_opening(&mut self, options: &LoadOptions, wanted: Wanted) {
        if self.open.is_none() && self.opening.is_none() {
            self.opening = Some(begin(options, wanted));
        }
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
    Background::start(move || span.in_scope(|| Session::open(&options, wanted)))
}

/// Sizes of the model that a new session will load first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) source_bytes: u64,
    /// `None` if the model is not known yet.
    pub(crate) device_bytes: Option<u64>,
}

impl Wanted {
    /// Returns the sizes for a session that is opened before its first model is known.
    pub(crate) const UNKNOWN: Self = Self { source_bytes: u64::MAX, device_bytes: None };

    pub(crate) fn by(plan: &LoadPlan) -> Self {
        Self { source_bytes: plan.source_bytes(), device_bytes: Some(plan.device_bytes()) }
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
        if let (DeviceKind::Host, Some(arena)) = (choice, wanted.device_bytes) {
            // The ring and the weights share the host's memory, so check both before making the ring.
            let needs = MemoryNeeds {
                device: choice,
                arena,
                conversion: 0,
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
            conversion: if converts { self.engine.conversion_bytes(0) } else { 0 },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DeviceChoice;

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
        let wanted = Wanted { source_bytes: 1, device_bytes: Some(1) };
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
