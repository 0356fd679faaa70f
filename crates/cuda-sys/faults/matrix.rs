//! Every fault at every call: what must come of it, and what must not be left of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use cuda_sys::{DeviceKind, Error, ErrorCode, Io};

use crate::calls::{self, Fault, Plan, Reach, Record, Stage};
use crate::scenario::{Done, Scenario};

/// Of a function that is called more often, the first and last calls fail, and some between them.
const FIRST: u64 = 64;
const LAST: u64 = 16;
const BETWEEN: u64 = 20;

/// One kind of fault of one function.
pub(crate) struct Row {
    /// As its wrapper names it.
    pub(crate) call: &'static str,
    pub(crate) fault: Fault,
    pub(crate) reach: Reach,
    /// What may come of it, by what the scenario is at.
    pub(crate) outcome: fn(Stage) -> Outcome,
}

/// What may come of a fault.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) success: Success,
    /// Codes of failures that are right.
    pub(crate) codes: &'static [ErrorCode],
}

/// Whether a load may succeed in spite of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Success {
    No,
    /// As without the fault, or in a way that was not asked for.
    Yes,
    /// Only if files were then read in another way.
    ReadingOtherwise,
    /// Only without pinned memory.
    Unpinned,
}

/// The load succeeds.
pub(crate) fn succeeds(_: Stage) -> Outcome {
    Outcome { success: Success::Yes, codes: &[] }
}

/// The load fails in this way.
pub(crate) const fn fails(codes: &'static [ErrorCode]) -> Outcome {
    Outcome { success: Success::No, codes }
}

/// The load fails in this way, or succeeds.
pub(crate) const fn may_fail(codes: &'static [ErrorCode]) -> Outcome {
    Outcome { success: Success::Yes, codes }
}

/// Runs all rows with a lane to each of the devices and says how many cases there were. Every function
/// that is watched must have a row, but those in `without_row`. `unchanged` gives what must be the same
/// before and after each case, beside what is watched on every device. One run at a time: another one
/// waits.
///
/// Panics with every case that went wrong.
pub(crate) fn run<T: PartialEq + std::fmt::Debug>(
    lanes: &[DeviceKind],
    rows: &[Row],
    without_row: &[&str],
    unchanged: impl Fn() -> T,
) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // A run that panicked has left nothing that matters to the next.
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let devices = lanes.iter().map(DeviceKind::to_string).collect::<Vec<_>>().join(" and ");
    let scenario = Scenario::new(lanes);
    let load = |plan| calls::record(plan, || scenario.run());
    // What happens once in a process has happened after the first.
    for _ in 0..2 {
        load(None).0.unwrap_or_else(|error| panic!("without a fault: {error}"));
    }
    let state = || (open_files(), unchanged());
    let before = state();
    let (reference, record) = load(None);
    let reference = reference.unwrap_or_else(|error| panic!("without a fault: {error}"));
    assert_eq!(record.alive, [], "not given back without any fault");
    assert_eq!(state(), before, "not as before without any fault");

    for called in record.counts.keys().filter(|call| !without_row.contains(call)) {
        assert!(rows.iter().any(|row| row.call == *called), "{called} is called and has no row");
    }

    let mut tally = Tally::default();
    for row in rows {
        let count = record.counts.get(row.call).copied().unwrap_or(0);
        if count == 0 && !reference.ios.contains(&Io::Direct) && row.call == "posix_memalign" {
            say(&format!("{devices}: this file system refuses O_DIRECT: no case of {}", row.call));
            continue;
        }
        assert!(count > 0, "{} is not called any more: the matrix has lost a row", row.call);
        let chosen = choose(count);
        tally.passed_over += count - chosen.len() as u64;
        for nth in chosen {
            let plan = Plan { call: row.call, nth, fault: row.fault, reach: row.reach };
            let (result, record) = load(Some(plan));
            let judged = judge(row, lanes, &result, &record, &reference).and_then(|()| {
                (state() == before)
                    .then_some(())
                    .ok_or_else(|| format!("not as before: {:?} became {:?}", before, state()))
            });
            if record.fired.is_none() {
                tally.not_reached += 1;
            } else {
                *tally.cases.entry(row.call).or_default() += 1;
            }
            let (again, afterwards) = load(None);
            let recovered = match again {
                Ok(done) if done != reference => Err(format!("the next load was other: {done:?}")),
                Ok(_) if !afterwards.alive.is_empty() => {
                    Err(format!("the next load left {:?}", afterwards.alive))
                }
                Ok(_) => Ok(()),
                Err(error) => Err(format!("the next load failed: {error}")),
            };
            if let Err(what) = judged.and(recovered) {
                tally.wrong.push(format!("{plan:?} at {:?}: {what}", record.fired));
            }
        }
    }
    tally.report(&devices);
    assert!(tally.wrong.is_empty(), "{} wrong:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
}

/// Calls of destructors, which report nothing: the error is that of a later call, and not always one of an
/// engine.
const FAILS_SILENTLY: [&str; 1] = ["cudaEventDestroy"];

/// Compares the result of a fault with its row.
fn judge(
    row: &Row,
    lanes: &[DeviceKind],
    result: &Result<Done, Error>,
    record: &Record,
    reference: &Done,
) -> Result<(), String> {
    if !record.alive.is_empty() {
        return Err(format!("left {:?}", record.alive));
    }
    let Some(stage) = record.fired else {
        // Which thread does what differs from run to run, and with it some counts.
        return match result {
            Ok(done) if done == reference => Ok(()),
            other => Err(format!("the call was not made, and the load gave {other:?}")),
        };
    };
    let outcome = (row.outcome)(stage);
    match result {
        Ok(done) => {
            let may = match outcome.success {
                Success::No => false,
                Success::Yes => true,
                Success::ReadingOtherwise => done.ios != reference.ios,
                Success::Unpinned => !done.pinned,
            };
            may.then_some(()).ok_or_else(|| format!("succeeded, with {done:?}"))
        }
        Err(error) if !outcome.codes.contains(&error.code()) => {
            Err(format!("failed with {:?}: {error}", error.code()))
        }
        // On the host no device call fails.
        Err(error)
            if error.code() == ErrorCode::DeviceFailure
                && matches!(stage, Stage::Engine | Stage::Execute)
                && !FAILS_SILENTLY.contains(&row.call)
                && error.lane().and_then(|lane| lanes.get(lane as usize))
                    != lanes.iter().find(|device| **device != DeviceKind::Host) =>
        {
            Err(format!("failed with lane {:?}: {error}", error.lane()))
        }
        Err(error) => {
            let expected = match row.fault {
                Fault::Status(status) => status,
                Fault::Short
                | Fault::Trickle
                | Fault::EndOfFile
                | Fault::BadAlloc
                | Fault::ForeignException => 0,
            };
            (error.status() == expected)
                .then_some(())
                .ok_or_else(|| format!("failed with status {}: {error}", error.status()))
        }
    }
}

/// Numbers of the calls that are to fail, of `count`.
fn choose(count: u64) -> Vec<u64> {
    let rest = count.saturating_sub(FIRST + LAST);
    if rest <= BETWEEN {
        return (1..=count).collect();
    }
    let between = (0..BETWEEN).map(|index| FIRST + 1 + index * rest / BETWEEN);
    (1..=FIRST).chain(between).chain(count - LAST + 1..=count).collect()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[derive(Default)]
struct Tally {
    cases: BTreeMap<&'static str, u64>,
    passed_over: u64,
    not_reached: u64,
    wrong: Vec<String>,
}

impl Tally {
    fn report(&self, devices: &str) {
        let total: u64 = self.cases.values().sum();
        let parts: Vec<_> =
            self.cases.iter().map(|(call, count)| format!("{call}: {count}")).collect();
        say(&format!(
            "fault matrix, {devices}: {total} cases ({}); {} of the calls passed over, {} not made",
            parts.join(", "),
            self.passed_over,
            self.not_reached,
        ));
    }
}

/// Says it also where the test passes: the harness holds back what the print macros print.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
