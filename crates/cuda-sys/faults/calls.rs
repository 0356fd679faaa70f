//! The calls that can be made to fail: how often each was made, which one is to fail, and what the
//! successful ones have left alive.
//!
//! Counted are calls that the engine makes, on the scenario's thread and on those it started. What
//! the CUDA driver calls for itself, inside one of its own functions or on its own threads, is
//! passed through unseen: that is not the engine's to survive.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a call that is chosen to fail does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Fails with this `errno` or `cudaError_t`.
    Status(i32),
    /// Reads less than asked for: a byte, or a block where only blocks can be read.
    Short,
    /// It gives little, as a slow file over a network does.
    Trickle,
    /// Reads nothing, as at the end of the file.
    EndOfFile,
    /// Throws `std::bad_alloc`.
    BadAlloc,
    /// Throws an exception that nobody has planned for.
    ForeignException,
}

/// Which calls fail beside the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// None.
    Once,
    /// All later calls of the same function.
    Onwards,
    /// All later calls of every CUDA function: the device is lost.
    Lost,
}

/// The `nth` call of a function, from 1, is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) call: &'static str,
    pub(crate) nth: u64,
    pub(crate) fault: Fault,
    pub(crate) reach: Reach,
}

/// What the scenario is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Open,
    Ring,
    Engine,
    Allocate,
    Execute,
    ReadBack,
    Drop,
}

/// What has to be given back.
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

struct Board {
    recording: bool,
    stage: Stage,
    plan: Option<Plan>,
    fired: Option<Stage>,
    counts: BTreeMap<&'static str, u64>,
    alive: BTreeSet<(Resource, usize)>,
}

static BOARD: Mutex<Board> = Mutex::new(Board {
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

fn board() -> MutexGuard<'static, Board> {
    // Nothing that holds it panics.
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether calls of this thread count.
pub(crate) fn is_watched() -> bool {
    WATCHED.get()
}

/// Makes calls of this thread count, or not; what was the case before.
pub(crate) fn watch(watched: bool) -> bool {
    WATCHED.replace(watched)
}

/// Counts a call of the function; the fault that it is to show, if any. `is_cuda` tells those that a
/// lost device takes along.
pub(crate) fn entered(call: &'static str, is_cuda: bool) -> Option<Fault> {
    if !is_watched() {
        return None;
    }
    let mut board = board();
    if !board.recording {
        return None;
    }
    let count = board.counts.entry(call).or_default();
    *count += 1;
    let count = *count;
    let plan = board.plan?;
    if plan.call == call && plan.nth == count {
        board.fired = Some(board.stage);
        return Some(plan.fault);
    }
    let fails = board.fired.is_some()
        && match plan.reach {
            Reach::Once => false,
            Reach::Onwards => plan.call == call,
            Reach::Lost => is_cuda,
        };
    fails.then_some(plan.fault)
}

/// Notes what a call has brought to life.
pub(crate) fn born(resource: Resource, handle: usize) {
    if !is_watched() {
        return;
    }
    let mut board = board();
    if board.recording {
        board.alive.insert((resource, handle));
    }
}

/// Notes that it was given back, by whatever thread.
pub(crate) fn gone(resource: Resource, handle: usize) {
    board().alive.remove(&(resource, handle));
}

/// Tells what the scenario is at.
pub(crate) fn at(stage: Stage) {
    board().stage = stage;
}

/// What a recording has seen.
pub(crate) struct Record {
    /// Calls of each function.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What the scenario was at when the plan's call was made; nothing where it was not made.
    pub(crate) fired: Option<Stage>,
    /// What was not given back.
    pub(crate) alive: Vec<(Resource, usize)>,
}

/// Runs `work` on this thread with calls counted, and fails them as planned.
pub(crate) fn record<T>(plan: Option<Plan>, work: impl FnOnce() -> T) -> (T, Record) {
    {
        let mut board = board();
        board.stage = Stage::Open;
        board.plan = plan;
        board.fired = None;
        board.counts.clear();
        board.recording = true;
    }
    watch(true);
    let result = work();
    watch(false);
    let mut board = board();
    board.recording = false;
    let alive = std::mem::take(&mut board.alive).into_iter().collect();
    (result, Record { counts: board.counts.clone(), fired: board.fired, alive })
}
