//! A fuzzer for stable toolchains, which the crates share.
//!
//! It checks the same promises as libFuzzer's target on mutants of the same seed corpus, without coverage from
//! the compiler. Instead, it keeps the first input of each new outcome and mutates it further. The same seed gives
//! the same inputs.
//!
//! The profile checks for overflows. An input that breaks a promise, or that takes longer than a second each time, is
//! written to `fuzz/artifacts`, and the exit status is 1.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is fuzzed.
pub(crate) struct Target {
    /// The folder `fuzz` of the crate.
    pub(crate) folder: &'static str,
    /// The folder of the seed corpus, below `corpus`.
    pub(crate) corpus: &'static str,
    /// How the names of inputs end.
    pub(crate) extension: &'static str,
    /// Panics if a promise is broken. Returns the outcome.
    pub(crate) check: fn(&[u8]) -> Option<&'static str>,
    /// Returns the outcome in more detail.
    pub(crate) signature: fn(&[u8]) -> String,
    /// Outcomes of inputs of which nothing else was read. Mutating such inputs finds nothing new.
    pub(crate) at_the_start: &'static [&'static str],
    /// Returns bytes that are special in this format, to write over others. Gets the length of the input.
    pub(crate) special: fn(&mut Random, usize) -> Vec<u8>,
}

/// Length of mutants in bytes, at most.
const MAX_LEN: usize = 1 << 16;

/// No input of [`MAX_LEN`] bytes may take longer.
const SLOW: Duration = Duration::from_secs(1);

/// Inputs that are kept for further mutation, at most.
const MAX_POOL: usize = 4096;

/// Fuzzes for the time and with the seed in the arguments of the program.
pub(crate) fn main(target: &Target) -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), seed) = (arguments.next(), arguments.next()) else {
        let _ = writeln!(io::stderr(), "usage: fuzz SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let seed = seed.and_then(Result::ok).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    });
    match fuzz(target, Duration::from_secs(seconds), seed) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the fuzzer for a while; returns the number of findings.
fn fuzz(target: &Target, time: Duration, seed: u64) -> io::Result<usize> {
    let folder = Path::new(target.folder);
    let mut pool = read_corpus(&folder.join("corpus").join(target.corpus))?;
    let seeds = pool.len();
    let mut random = Random(seed);
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = HashSet::new();
    let (mut executions, mut findings) = (0u64, 0);

    let started = Instant::now();
    let mut last_check = started;
    while started.elapsed() < time && findings < 10 {
        // Half of the mutants are made from a seed. Otherwise the many inputs that fail early would
        // dominate.
        let ancestors = if random.below(2) == 0 { seeds } else { pool.len() };
        let mut bytes = pool[random.below(ancestors)].clone();
        for _ in 0..=random.below(6) {
            mutate(&mut bytes, &pool, target, &mut random);
        }
        bytes.truncate(MAX_LEN);
        executions += 1;

        let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(&bytes)));
        let slow = last_check.elapsed() > SLOW && is_slow(target, &bytes);
        last_check = Instant::now();
        match outcome {
            Ok(code) if !slow => {
                *outcomes.entry(code.unwrap_or("valid")).or_default() += 1;
                let further = !code.is_some_and(|code| target.at_the_start.contains(&code));
                if further && pool.len() < MAX_POOL && seen.insert((target.signature)(&bytes)) {
                    pool.push(bytes);
                }
            }
            _ => {
                findings += 1;
                let path = keep(&folder.join("artifacts"), target.extension, &bytes)?;
                let what = if slow { "takes too long" } else { "breaks a promise" };
                writeln!(io::stderr(), "{} {what}", path.display())?;
            }
        }
    }

    let mut out = io::stdout().lock();
    let seconds = started.elapsed().as_secs_f64();
    writeln!(out, "seed {seed}: {executions} executions in {seconds:.1} s, {findings} findings")?;
    for (outcome, count) in outcomes {
        writeln!(out, "{count:>12} {outcome}")?;
    }
    Ok(findings)
}

/// Returns whether the input takes long every time, and not only once because the machine was busy.
fn is_slow(target: &Target, bytes: &[u8]) -> bool {
    (0..3).all(|_| {
        let began = Instant::now();
        let _ = catch_unwind(AssertUnwindSafe(|| (target.check)(bytes)));
        began.elapsed() > SLOW
    })
}

/// Returns the files of a folder, in the order of their names.
fn read_corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let files = paths.iter().map(std::fs::read).collect::<io::Result<Vec<_>>>()?;
    if files.is_empty() { Err(io::Error::other("the corpus is empty")) } else { Ok(files) }
}

/// Writes an input for the investigation of the finding.
fn keep(folder: &Path, extension: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{hash:016x}.{extension}"));
    std::fs::create_dir_all(folder)?;
    std::fs::write(&path, bytes)?;
    Ok(path)
}

fn mutate(bytes: &mut Vec<u8>, pool: &[Vec<u8>], target: &Target, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(32)).min(bytes.len());
    match random.below(10) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2..=5 => {
            let special = (target.special)(random, bytes.len());
            for (to, from) in bytes.iter_mut().skip(at).zip(&special) {
                *to = *from;
            }
        }
        6 => drop(bytes.drain(at.min(end)..end)),
        7 => {
            let piece = bytes[at.min(end)..end].to_vec();
            bytes.splice(at..at, piece);
        }
        8 => bytes.truncate(at),
        _ => {
            let other = &pool[random.below(pool.len())];
            let from = random.below(other.len() + 1);
            let piece = other[from..(from + random.below(200)).min(other.len())].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

/// SplitMix64: it needs no dependency, and the same seed gives the same inputs everywhere.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
