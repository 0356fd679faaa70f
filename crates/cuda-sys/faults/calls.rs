//! Counts the intercepted calls, chooses the call that fails, and records the resources that successful
//! calls have left.
//!
//! Only calls of the engine count, on the scenario's thread and on the threads that it started. Calls that
//! the CUDA driver makes itself, inside its functions or on its own threads, pass through uncounted: the
//! engine need not survive their failure.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The behaviour of a call that is chosen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Fails with this `errno` or `cudaError_t`.
    Status(i32),
    /// Reads less than requested: one byte, or one block if only whole blocks can be read.
    Short,
    /// Reads few bytes, like a slow network file system.
    Trickle,
    /// Reads nothing, as at the end of the file.
    EndOfFile,
    /// Throws `std::bad_alloc`.
    BadAlloc,
    /// Throws an exception of a type that the engine does not expect.
    ForeignException,
}

/// Which other calls fail after the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// None.
    Once,
    /// All later calls of the same function.
    Onwards,
    /// All later calls of every CUDA function, as if the device were lost.
    Lost,
}

/// Makes call number `nth` of a function fail, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) call: &'static str,
    pub(crate) nth: u64,
    pub(crate) fault: Fault,
    pub(crate) reach: Reach,
}

/// The stage of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Open,
    Ring,
    Engine,
    Allocate,
    Execute,
    ReadBack,
    Share,
    Drop,
}

/// The kinds of resources that must be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    HostAllocation,
    Mapping,
    Thread,
    DeviceAllocation,
    Stream,
    Event,
    Registration,
}

struct State {
    recording: bool,
    stage: Stage,
    plan: Option<Plan>,
    fired: Option<Stage>,
    counts: BTreeMap<&'static str, u64>,
    alive: BTreeSet<(Resource, usize)>,
}

static STATE: Mutex<State> = Mutex::new(State {
    recording: false,
    stage: Stage::Open,
    plan: None,
    fired: None,
    counts: BTreeMap::new(),
    alive: BTreeSet::new(),
});

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn state() -> MutexGuard<'static, State> {
    // No code panics while it holds the lock.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether calls of this thread are counted.
pub(crate) fn is_watched() -> bool {
    WATCHED.get()
}

/// Sets whether calls of this thread are counted. Returns the previous setting.
pub(crate) fn watch(watched: bool) -> bool {
    WATCHED.replace(watched)
}

/// Counts a call of the function. Returns its fault, if it is to fail. `is_cuda` marks functions that fail
/// on a lost device.
pub(crate) fn count_call(call: &'static str, is_cuda: bool) -> Option<Fault> {
    if !is_watched() {
        return None;
    }
    let mut state = state();
    if !state.recording {
        return None;
    }
    let count = state.counts.entry(call).or_default();
    *count += 1;
    let count = *count;
    let plan = state.plan?;
    if plan.call == call && plan.nth == count {
        state.fired = Some(state.stage);
        return Some(plan.fault);
    }
    let fails = state.fired.is_some()
        && match plan.reach {
            Reach::Once => false,
            Reach::Onwards => plan.call == call,
            Reach::Lost => is_cuda,
        };
    fails.then_some(plan.fault)
}

/// Records a resource that a call has created.
pub(crate) fn created(resource: Resource, handle: usize) {
    if !is_watched() {
        return;
    }
    let mut state = state();
    if state.recording {
        state.alive.insert((resource, handle));
    }
}

/// Records that a resource was released, by any thread.
pub(crate) fn released(resource: Resource, handle: usize) {
    state().alive.remove(&(resource, handle));
}

/// Sets the stage of the scenario.
pub(crate) fn enter_stage(stage: Stage) {
    state().stage = stage;
}

/// The result of a recording.
pub(crate) struct Record {
    /// The number of calls of each function.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The stage at which the planned call was made; `None` if it was not made.
    pub(crate) fired: Option<Stage>,
    /// The resources that were not released.
    pub(crate) alive: Vec<(Resource, usize)>,
}

/// Runs `work` on this thread, counts its calls, and makes the planned ones fail.
pub(crate) fn record<T>(plan: Option<Plan>, work: impl FnOnce() -> T) -> (T, Record) {
    {
        let mut state = state();
        state.stage = Stage::Open;
        state.plan = plan;
        state.fired = None;
        state.counts.clear();
        state.recording = true;
    }
    watch(true);
    let result = work();
    watch(false);
    let mut state = state();
    state.recording = false;
    let alive = std::mem::take(&mut state.alive).into_iter().collect();
    (result, Record { counts: state.counts.clone(), fired: state.fired, alive })
}
