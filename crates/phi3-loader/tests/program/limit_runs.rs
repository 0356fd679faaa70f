//! Runs random commands under random limits, and checks the result of each run.

use crate::codes::is_sanitized;
use crate::common::model_path;
use crate::limited::{KINDS, Kind, Limited, say};
use crate::program::PROGRAM;
use crate::trial::{Bench, TRIALS, timed};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Mutex;

/// The largest number of random limits in a row under which the program may fail to start.
const MOST_SKIPPED: usize = 200;

/// The results of runs by several threads.
struct Campaign {
    bench: Bench,
    kinds: Vec<Kind>,
    wanted: usize,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// The number of runs for each kind and exit code.
    runs: BTreeMap<(Kind, u8), usize>,
    /// The number of limits under which `--version` failed.
    skipped: usize,
    begun: usize,
    wrong: Vec<String>,
}

pub(crate) fn run(wanted: usize, seed: u64) {
    let kinds: Vec<_> = KINDS.into_iter().filter(|kind| kind.works()).collect();
    for kind in KINDS.iter().filter(|kind| !kinds.contains(kind)) {
        say(&format!("limits: {kind:?} cannot be limited here"));
    }
    for kind in [Kind::AddressSpace, Kind::Data] {
        assert!(kinds.contains(&kind) || is_sanitized(), "{kind:?} can be limited anywhere");
    }
    let campaign = Campaign {
        bench: Bench::new(Path::new(PROGRAM), &model_path("tied-gqa-bf16.gguf")),
        kinds,
        wanted,
        tally: Mutex::default(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..threads {
            let campaign = &campaign;
            scope.spawn(move || campaign.work(worker as u32, seed));
        }
    });
    let tally = campaign.tally.into_inner().unwrap();
    let done: usize = tally.runs.values().sum();
    say(&format!(
        "limits: {done} runs of {} commands, {} limits skipped: {:?}",
        TRIALS.len(),
        tally.skipped,
        tally.runs
    ));
    assert!(tally.wrong.is_empty(), "{} wrong:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
    assert_eq!(done, wanted);
}

impl Campaign {
    fn work(&self, worker: u32, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed << 32 | u64::from(worker));
        while let Some(number) = self.begin() {
            let kind = self.kinds[number % self.kinds.len()];
            let skipped =
                (0..MOST_SKIPPED).take_while(|_| !self.attempt(kind, worker, &mut random)).count();
            assert!(skipped < MOST_SKIPPED, "the program does not start: {kind:?}");
            self.tally.lock().unwrap().skipped += skipped;
        }
    }

    fn begin(&self) -> Option<usize> {
        let mut tally = self.tally.lock().unwrap();
        let number = tally.begun;
        tally.begun += 1;
        (number < self.wanted).then_some(number)
    }

    /// Runs a random command under a random limit. Returns false if the program does not start under the limit.
    fn attempt(&self, kind: Kind, user: u32, random: &mut fastrand::Rng) -> bool {
        let limited = Limited { kind, limit: kind.choose(random), user };
        let Some(applied) = limited.applied() else { return false };
        let version = vec![self.bench.program().into(), OsString::from("--version")];
        if !timed(&applied.line(version)).output().unwrap().status.success() {
            return false;
        }
        let trial = &TRIALS[random.usize(..TRIALS.len())];
        let backtrace = random.bool();
        let ran = self.bench.run(trial, |command| {
            let variable = format!("RUST_BACKTRACE={}", u8::from(backtrace));
            let line = [OsString::from("env"), variable.into()];
            applied.line(line.into_iter().chain(command).collect())
        });
        let judged = self.bench.judge(trial, &ran);
        let mut tally = self.tally.lock().unwrap();
        *tally.runs.entry((kind, ran.code().unwrap_or(u8::MAX))).or_default() += 1;
        if let Err(what) = judged {
            let stderr = ran.stderr();
            tally
                .wrong
                .push(format!("{limited:?}, backtrace {backtrace}, {trial}: {what}: {stderr}"));
        }
        true
    }
}
