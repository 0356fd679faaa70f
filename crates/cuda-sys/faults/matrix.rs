//! Runs a load with every fault at every call, and checks the result and the resources.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use cuda_sys::{DeviceKind, Error, ErrorCode, Io};

use crate::calls::{self, Fault, Plan, Reach, Record, Stage};
use crate::scenario::{Done, Scenario};

/// If a function is called more often, only its first and last calls fail, and some calls between them.
const FIRST: u64 = 64;
const LAST: u64 = 16;
const BETWEEN: u64 = 20;

/// One kind of fault of one function.
pub(crate) struct Row {
    /// The name in its wrapper.
    pub(crate) call: &'static str,
    pub(crate) fault: Fault,
    pub(crate) reach: Reach,
    /// Returns the permitted results at a stage of the scenario.
    pub(crate) outcome: fn(Stage) -> Outcome,
}

/// The permitted results of a fault.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) success: Success,
    /// Error codes that the load may fail with.
    pub(crate) codes: &'static [ErrorCode],
}

/// Whether a load may succeed despite a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Success {
    No,
    /// As without the fault, or with fewer resources.
    Yes,
    /// Only if it then read files in another way.
    OtherIo,
    /// Only without pinned memory.
    Unpinned,
}

/// The load succeeds.
pub(crate) fn succeeds(_: Stage) -> Outcome {
    Outcome { success: Success::Yes, codes: &[] }
}

/// The load fails with one of these codes.
pub(crate) const fn fails(codes: &'static [ErrorCode]) -> Outcome {
    Outcome { success: Success::No, codes }
}

/// The load fails with one of these codes, or succeeds.
pub(crate) const fn may_fail(codes: &'static [ErrorCode]) -> Outcome {
    Outcome { success: Success::Yes, codes }
}

/// Runs all rows with one lane for each of the devices, and prints the number of cases. Every intercepted
/// function must have a row, except those in `without_row`. The result of `unchanged` must be the same
/// before and after each case, like the state that is checked on every device. Concurrent runs wait for
/// each other.
///
/// Panics with all cases that went wrong.
pub(crate) fn run<T: PartialEq + std::fmt::Debug>(
    lanes: &[DeviceKind],
    rows: &[Row],
    without_row: &[&str],
    unchanged: impl Fn() -> T,
) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // A run that panicked leaves nothing that matters to the next one.
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let devices = lanes.iter().map(DeviceKind::to_string).collect::<Vec<_>>().join(" and ");
    let scenario = Scenario::new(lanes);
    // Let everything happen that happens only once in a process.
    for _ in 0..2 {
        load(&scenario, None).0.unwrap_or_else(|error| panic!("without a fault: {error}"));
    }
    let state = || (open_files(), unchanged());
    let before = state();
    let (reference, record) = load(&scenario, None);
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
            print_line(&format!(
                "{devices}: this file system refuses O_DIRECT: no case of {}",
                row.call
            ));
            continue;
        }
        assert!(count > 0, "{} is not called any more: the matrix has lost a row", row.call);
        let chosen = choose(count);
        tally.skipped += count - chosen.len() as u64;
        for nth in chosen {
            let case = Case { row, nth, scenario: &scenario, reference: &reference };
            case.run(lanes, &mut tally, || {
                let now = state();
                let same = (now == before).then_some(());
                same.ok_or_else(|| format!("not as before: {before:?} became {now:?}"))
            });
        }
    }
    tally.report(&devices);
    assert!(tally.wrong.is_empty(), "{} wrong:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
}

fn load(scenario: &Scenario, plan: Option<Plan>) -> (Result<Done, Error>, Record) {
    calls::record(plan, || scenario.run())
}

/// One fault of one call.
struct Case<'a> {
    row: &'a Row,
    nth: u64,
    scenario: &'a Scenario,
    /// The result of a load without a fault.
    reference: &'a Done,
}

impl Case<'_> {
    /// Runs a load with the fault and one without it, and adds the results to the tally. `check_state` says
    /// whether the first load left the process as it was.
    fn run(
        &self,
        lanes: &[DeviceKind],
        tally: &mut Tally,
        check_state: impl Fn() -> Result<(), String>,
    ) {
        let Self { row, nth, scenario, reference } = *self;
        let plan = Plan { call: row.call, nth, fault: row.fault, reach: row.reach };
        let (result, record) = load(scenario, Some(plan));
        let checked =
            check_result(row, lanes, &result, &record, reference).and_then(|()| check_state());
        if record.fired.is_none() {
            tally.not_reached += 1;
        } else {
            *tally.cases.entry(row.call).or_default() += 1;
        }
        if let Err(what) = checked.and(self.check_next_load()) {
            tally.wrong.push(format!("{plan:?} at {:?}: {what}", record.fired));
        }
    }

    /// Checks that a load without a fault succeeds afterwards.
    fn check_next_load(&self) -> Result<(), String> {
        let (result, record) = load(self.scenario, None);
        match result {
            Ok(done) if done != *self.reference => {
                Err(format!("the next load was other: {done:?}"))
            }
            Ok(_) if !record.alive.is_empty() => {
                Err(format!("the next load left {:?}", record.alive))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the next load failed: {error}")),
        }
    }
}

/// Destructors, which report no errors. A later call reports the error, and it may belong to no lane.
const FAILS_WITHOUT_ERROR: [&str; 1] = ["cudaEventDestroy"];

/// Compares the result of a case with its row.
fn check_result(
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
        // The work of each thread differs between runs, and so do some counts.
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
                Success::OtherIo => done.ios != reference.ios,
                Success::Unpinned => !done.pinned,
            };
            may.then_some(()).ok_or_else(|| format!("succeeded, with {done:?}"))
        }
        Err(error) if !outcome.codes.contains(&error.code()) => {
            Err(format!("failed with {:?}: {error}", error.code()))
        }
        // Device calls fail only on a GPU, so the error must name the lane of a GPU.
        Err(error)
            if error.code() == ErrorCode::DeviceFailure
                && matches!(stage, Stage::Engine | Stage::Execute)
                && !FAILS_WITHOUT_ERROR.contains(&row.call)
                && error
                    .lane()
                    .and_then(|lane| lanes.get(lane as usize))
                    .is_none_or(|device| *device == DeviceKind::Host) =>
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

/// Returns the numbers of the calls that fail, out of `count` calls.
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
    skipped: u64,
    not_reached: u64,
    wrong: Vec<String>,
}

impl Tally {
    fn report(&self, devices: &str) {
        let total: u64 = self.cases.values().sum();
        let parts: Vec<_> =
            self.cases.iter().map(|(call, count)| format!("{call}: {count}")).collect();
        print_line(&format!(
            "fault matrix, {devices}: {total} cases ({}); {} of the calls skipped, {} not made",
            parts.join(", "),
            self.skipped,
            self.not_reached,
        ));
    }
}

/// Prints a line even if the test passes: the test harness hides the output of the print macros.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
