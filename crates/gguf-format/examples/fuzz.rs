//! A fuzzer for stable toolchains: `cargo run --profile fuzz --example fuzz -- SECONDS [SEED]`.
//!
//! Theory: as `fuzz/fuzz_targets/parse.rs`, whose promises it checks on mutants of the same seed
//! corpus, without the compiler's coverage. In its place it keeps, of each outcome that it has not
//! seen, the file that led there, and mutates that further. The same seed makes the same files.
//!
//! The profile checks for overflows, so that none goes unnoticed. A file that breaks a promise, or
//! takes longer than a second each time, is left in `fuzz/artifacts`; the exit status is then 1.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gguf_format::Gguf;

#[path = "../fuzz/promises.rs"]
mod promises;

/// Longest file that mutants grow to, in bytes.
const MAX_LEN: usize = 1 << 16;

/// Longer than any file of [`MAX_LEN`] bytes may take.
const SLOW: Duration = Duration::from_secs(1);

/// Most files that are kept for further mutation.
const MAX_POOL: usize = 4096;

/// Refused before anything of the file is read: nothing new lies behind these.
const AT_THE_DOOR: [&str; 3] = ["GGUF_BAD_MAGIC", "GGUF_UNSUPPORTED_VERSION", "GGUF_BIG_ENDIAN"];

/// What a parser may take for a length, a count, a type or an offset.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    12,
    13,
    31,
    32,
    64,
    65,
    256,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), seed) = (arguments.next(), arguments.next()) else {
        let _ = writeln!(io::stderr(), "usage: fuzz SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let seed = seed.and_then(Result::ok).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    });
    match fuzz(Duration::from_secs(seconds), seed) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Fuzzes for a while; answers the number of findings.
fn fuzz(time: Duration, seed: u64) -> io::Result<usize> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut pool = read_corpus(&folder.join("corpus/parse"))?;
    let seeds = pool.len();
    let mut random = Random(seed);
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = HashSet::new();
    let (mut executions, mut findings) = (0u64, 0);

    let started = Instant::now();
    let mut last_check = started;
    while started.elapsed() < time && findings < 10 {
        // Half of the mutants descend from a seed directly, or the many that fail early crowd them
        // out.
        let ancestors = if random.below(2) == 0 { seeds } else { pool.len() };
        let mut bytes = pool[random.below(ancestors)].clone();
        for _ in 0..=random.below(6) {
            mutate(&mut bytes, &pool, &mut random);
        }
        bytes.truncate(MAX_LEN);
        executions += 1;

        let outcome = catch_unwind(AssertUnwindSafe(|| promises::check(&bytes)));
        let slow = last_check.elapsed() > SLOW && is_slow(&bytes);
        last_check = Instant::now();
        match outcome {
            Ok(code) if !slow => {
                *outcomes.entry(code.unwrap_or("valid")).or_default() += 1;
                let further = !code.is_some_and(|code| AT_THE_DOOR.contains(&code));
                if further && pool.len() < MAX_POOL && seen.insert(signature(&bytes)) {
                    pool.push(bytes);
                }
            }
            _ => {
                findings += 1;
                let path = keep(&folder.join("artifacts"), &bytes)?;
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

/// Whether the file takes long every time, and not once because the machine was busy elsewhere.
fn is_slow(bytes: &[u8]) -> bool {
    (0..3).all(|_| {
        let began = Instant::now();
        let _ = catch_unwind(AssertUnwindSafe(|| promises::check(bytes)));
        began.elapsed() > SLOW
    })
}

/// The files of a folder, in the order of their names.
fn read_corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let files = paths.iter().map(std::fs::read).collect::<io::Result<Vec<_>>>()?;
    if files.is_empty() { Err(io::Error::other("the corpus is empty")) } else { Ok(files) }
}

/// Leaves a file for whoever looks into the finding.
fn keep(folder: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{hash:016x}.gguf"));
    std::fs::create_dir_all(folder)?;
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// What tells an outcome from others: the message without its numbers and names, or the kinds of
/// keys and tensors.
fn signature(bytes: &[u8]) -> String {
    match Gguf::parse(bytes) {
        Ok(gguf) => {
            let keys = gguf.metadata().iter().map(|(_, value)| value.type_name());
            let tensors = gguf.tensors().iter().map(|tensor| tensor.ggml_type().name());
            keys.chain(tensors).take(4).collect::<Vec<_>>().join(",")
        }
        Err(error) => {
            let text = error.to_string();
            let words = text.split('"').step_by(2).collect::<String>();
            words.chars().filter(|c| !c.is_ascii_digit()).collect()
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, pool: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(32)).min(bytes.len());
    match random.below(10) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2..=5 => {
            let number = match random.below(3) {
                0 => NUMBERS[random.below(NUMBERS.len())],
                1 => random.below(70) as u64,
                _ => (bytes.len() + random.below(16)).saturating_sub(8) as u64,
            };
            let width = if random.below(2) == 0 { 4 } else { 8 };
            for (to, from) in bytes.iter_mut().skip(at).zip(&number.to_le_bytes()[..width]) {
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

/// SplitMix64: no dependency, and the same seed gives the same files everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
