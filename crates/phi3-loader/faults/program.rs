//! The fault matrix of the program: starts of threads and processes fail, and allocations fail.
//! `docs/fault-testing.md` describes it.
//!
//! This executable is both the test and the program. If its file name is [`trial::PROGRAM_NAME`], it runs as
//! `phi3-loader` with the fault from an environment variable.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stderr, reason = "a test without a harness")]

#[path = "../src/bin/phi3-loader/allocator.rs"]
mod allocator;
mod calls;
#[path = "../tests/program/environment.rs"]
mod environment;
#[allow(dead_code, reason = "runs under limits use the rest")]
#[path = "../tests/program/trial.rs"]
mod trial;

use calls::{ALLOCATION, CALLS, Call, THREAD};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use trial::{Bench, TRIALS, Trial};

#[global_allocator]
static ALLOCATOR: allocator::OrExit<calls::Refusing> = allocator::OrExit(calls::Refusing);

/// The fault, as `CALL:NUMBER:once` or `CALL:NUMBER:onwards`.
const FAULT: &str = "FAULT";
/// The file for the call counts of a run without a fault.
const COUNTS: &str = "FAULT_COUNTS";

/// If a function is called more often than this, only the first calls, the last calls and some calls
/// between them fail.
const FIRST: u64 = 8;
const LAST: u64 = 2;
const BETWEEN: u64 = 4;

fn main() -> ExitCode {
    let is_program = std::env::current_exe().is_ok_and(|exe| exe.ends_with(trial::PROGRAM_NAME));
    if is_program { as_program() } else { as_test() }
}

fn as_program() -> ExitCode {
    allocator::share_between_threads();
    if let Ok(fault) = std::env::var(FAULT) {
        let parts: Vec<_> = fault.split(':').collect();
        let [name, number, reach] = parts[..] else { panic!("{fault} is no fault") };
        let call = CALLS.iter().find(|call| call.name == name).unwrap();
        call.fail_at(call.made() + number.parse::<u64>().unwrap(), reach == "onwards");
    }
    let before = CALLS.map(Call::made);
    let code = phi3_loader::main(phi3_loader::Start { stdout_is_open: true });
    if let Some(path) = std::env::var_os(COUNTS) {
        let counts: Vec<_> = CALLS.iter().zip(before).map(|(call, n)| call.made() - n).collect();
        std::fs::write(path, serde_json::to_string(&counts).unwrap()).unwrap();
    }
    code
}

/// One fault in one run of a command.
struct Case {
    trial: &'static Trial,
    call: &'static Call,
    number: u64,
    onwards: bool,
}

impl Case {
    fn fault(&self) -> String {
        let reach = if self.onwards { "onwards" } else { "once" };
        format!("{}:{}:{reach}", self.call.name, self.number)
    }

    /// Returns the correct exit codes. 0 is always one of them: the number of calls differs between runs, so
    /// the fault may not occur. `synth` works with one thread and succeeds if a thread cannot be started.
    fn correct_codes(&self) -> &'static [u8] {
        let is_synth = self.trial.to_string().starts_with("synth");
        if is_synth && std::ptr::eq(self.call, &THREAD) { &[0] } else { &[0, 6] }
    }
}

fn as_test() -> ExitCode {
    let bench = Bench::new(&std::env::current_exe().unwrap(), &model());
    let cases: Vec<_> = TRIALS.iter().flat_map(|trial| cases_of(&bench, trial)).collect();
    for call in CALLS {
        let any = cases.iter().any(|case| std::ptr::eq(case.call, call));
        assert!(any, "{} is not called any more: the matrix has lost a row", call.name);
    }
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    // Some commands mostly wait, so use more threads than cores.
    let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = judge(&bench, case) {
                        let text = format!("{}, {}: {what}", case.trial, case.fault());
                        wrong.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let mut counts = BTreeMap::<_, usize>::new();
    for case in &cases {
        *counts.entry(case.call.name).or_default() += 1;
    }
    eprintln!("fault matrix, program: {} cases: {counts:?}", cases.len());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    ExitCode::SUCCESS
}

fn model() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models/tied-gqa-bf16.gguf")
}

/// Counts the calls of a run without a fault, and chooses the calls that fail.
fn cases_of(bench: &Bench, trial: &'static Trial) -> Vec<Case> {
    let counts = tempfile::NamedTempFile::new().unwrap();
    let ran = bench.run(trial, |line| with_variable(COUNTS, counts.path().into(), line));
    bench.judge(trial, &ran).unwrap_or_else(|what| panic!("{trial}, without a fault: {what}"));
    let counts: Vec<u64> = serde_json::from_slice(&std::fs::read(counts.path()).unwrap()).unwrap();
    let mut cases = Vec::new();
    for (call, count) in CALLS.into_iter().zip(counts) {
        // After a failed allocation the process ends, so there is no later allocation.
        let reaches = if std::ptr::eq(call, &ALLOCATION) { &[false][..] } else { &[false, true] };
        for &onwards in reaches {
            let case = |number| Case { trial, call, number, onwards };
            cases.extend(choose(count).into_iter().map(case));
        }
    }
    cases
}

fn judge(bench: &Bench, case: &Case) -> Result<(), String> {
    let ran = bench.run(case.trial, |line| with_variable(FAULT, case.fault().into(), line));
    bench.judge(case.trial, &ran).map_err(|what| format!("{what}: {}", ran.stderr()))?;
    let code = ran.code()?;
    if case.correct_codes().contains(&code) {
        return Ok(());
    }
    Err(format!("exit code {code}: {}", ran.stderr()))
}

fn with_variable(name: &str, value: OsString, line: Vec<OsString>) -> Vec<OsString> {
    let mut variable = OsString::from(format!("{name}="));
    variable.push(value);
    [OsString::from("env"), variable].into_iter().chain(line).collect()
}

/// Chooses the numbers of the calls that fail, out of `count` calls.
fn choose(count: u64) -> Vec<u64> {
    let rest = count.saturating_sub(FIRST + LAST);
    if rest <= BETWEEN {
        return (1..=count).collect();
    }
    let between = (0..BETWEEN).map(|index| FIRST + 1 + index * rest / BETWEEN);
    (1..=FIRST).chain(between).chain(count - LAST + 1..=count).collect()
}
