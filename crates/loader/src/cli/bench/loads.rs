//! Loads, timed phase by phase.

use super::document::{LoadFigures, Row, Spread, gb_per_s};
use super::page_cache::{self, Moment};
use crate::cli::args::{Bench, Choices, StorageArg, VerifyArg, name_of};
use crate::cli::failure::{Failure, ProcessFailure};
use crate::cli::load::io_name;
use crate::event::Unobserved;
use crate::loader::Loader;
use crate::model::LoadStats;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a load finds of its file in the page cache that holds not all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    HalfCached,
    Cold,
}

/// How long the driver may take to clear freed memory: it uses the device's copy engines for it, which
/// a load that follows at once has to share.
const CLEARED_AFTER: Duration = Duration::from_millis(250);

/// Phases in their order: the name here, the field of a `finished` event, and what it is.
const PHASES: [(&str, &str, &str); 9] = [
    ("parse", "parse_seconds", "file opened, header proven"),
    ("plan", "plan_seconds", "configuration read, load planned"),
    ("context", "context_seconds", "device opened: its context"),
    ("pin", "pin_seconds", "staging ring pinned, queues made"),
    ("allocate", "allocate_seconds", "device memory"),
    ("prepare", "prepare_seconds", "schedule cut, code loaded, reports made"),
    ("transfer", "transfer_seconds", "first read to verified residency"),
    ("verify", "verify_seconds", "residency, and what was asked for beyond"),
    ("load", "seconds", "all of these"),
];

/// Loads of a file that the page cache holds, each by a new process: what somebody gets who starts the
/// program. Variants take turns with them, so that what else the machine does meets all alike.
pub(super) fn warm(arguments: &Bench, files: &[PathBuf]) -> Result<Vec<LoadFigures>, Failure> {
    let plain = &arguments.choices;
    let mut turns = vec![("warm", "a new process each, the file in the page cache", plain.clone())];
    if arguments.variants {
        let checksum = Choices { verify: VerifyArg::Checksum, ..plain.clone() };
        let native = Choices { storage: StorageArg::Native, ..plain.clone() };
        turns.push(("checksum", "by turns with the warm ones, with --verify checksum", checksum));
        turns.push(("native", "by turns with the warm ones, with --storage native", native));
    }
    let mut samples: Vec<_> = turns.iter().map(|_| Samples::default()).collect();
    for _ in 0..arguments.repeat {
        for ((_, _, choices), samples) in turns.iter().zip(&mut samples) {
            samples.add_process(&arguments.file, choices, files)?;
        }
    }
    let named = turns.iter().zip(samples);
    Ok(named.map(|((name, what, choices), samples)| samples.figures(name, what, choices)).collect())
}

/// Loads of a file that is in storage, all of it or half, each by a new process.
pub(super) fn from_storage(
    arguments: &Bench,
    kind: Kind,
    files: &[PathBuf],
) -> Result<LoadFigures, Failure> {
    let mut samples = Samples::default();
    for _ in 0..arguments.repeat {
        match kind {
            Kind::HalfCached => page_cache::fill_half(files),
            Kind::Cold => page_cache::drop_pages(files),
        }
        .map_err(|error| Failure::Read(arguments.file.clone(), error))?;
        samples.add_process(&arguments.file, &arguments.choices, files)?;
    }
    let (name, description) = match kind {
        Kind::HalfCached => {
            ("half-cached", "a new process each, half of the file in the page cache")
        }
        Kind::Cold => ("cold", "a new process each, the file's pages dropped"),
    };
    Ok(samples.figures(name, description, &arguments.choices))
}

/// Loads by one loader that has loaded before: it keeps the device open and the ring pinned. Some time
/// after the model before was dropped, and immediately after.
pub(super) fn reused(arguments: &Bench, files: &[PathBuf]) -> Result<[LoadFigures; 2], Failure> {
    let mut loader = Loader::new(arguments.choices.options());
    drop(loader.load(&arguments.file, &mut Unobserved)?);
    let mut samples = |pause: Duration| -> Result<Samples, Failure> {
        let mut samples = Samples::default();
        for _ in 0..arguments.repeat {
            samples.cached.extend(page_cache::cached_share(files, Moment::Before));
            std::thread::sleep(pause);
            let model = loader.load(&arguments.file, &mut Unobserved)?;
            samples.finished.push(finished_of(model.stats()));
        }
        Ok(samples)
    };
    let choices = &arguments.choices;
    let reused = "one loader, after its first load, the file in the page cache";
    let swap = "the same, right after the model before was dropped";
    Ok([
        samples(CLEARED_AFTER)?.figures("reused", reused, choices),
        samples(Duration::ZERO)?.figures("swap", swap, choices),
    ])
}

/// What a `finished` event says of the same load.
fn finished_of(stats: &LoadStats) -> Value {
    serde_json::json!({
        "source_bytes": stats.source_bytes,
        "parse_seconds": stats.parse_seconds,
        "plan_seconds": stats.plan_seconds,
        "context_seconds": stats.context_seconds,
        "pin_seconds": stats.pin_seconds,
        "allocate_seconds": stats.allocate_seconds,
        "prepare_seconds": stats.prepare_seconds,
        "transfer_seconds": stats.transfer_seconds,
        "verify_seconds": stats.verify_seconds,
        "seconds": stats.seconds,
        "io": io_name(stats.io),
        "threads": stats.threads,
        "chunk_bytes": stats.chunk_bytes,
        "pinned": stats.pinned,
    })
}

/// The last event of a load by a process of its own, and the seconds from its start to that event.
fn load_in_process(file: &Path, choices: &Choices) -> Result<(Value, f64), Failure> {
    let failed = |why: String| {
        Failure::Process(ProcessFailure {
            code: "INTERNAL".to_owned(),
            message: format!("loading in another process: {why}"),
            exit_code: 1,
        })
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.arg("load").arg(file).args(choices.to_arguments()).arg("--json");
    let start = Instant::now();
    // Its last event says what goes wrong; warnings would come once a load.
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let mut last = None;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(|error| failed(error.to_string()))?;
        last = Some((line, start.elapsed().as_secs_f64()));
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let (line, seconds) = last.ok_or_else(|| failed(format!("{status}")))?;
    let event: Value =
        serde_json::from_str(&line).map_err(|error| failed(format!("{error}: {line}")))?;
    if event["event"] == "finished" {
        return Ok((event, seconds));
    }
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    Err(Failure::Process(ProcessFailure {
        code: text("code"),
        message: text("message"),
        exit_code: status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    }))
}

/// What the loads of one kind said.
#[derive(Default)]
struct Samples {
    finished: Vec<Value>,
    ready: Vec<f64>,
    cached: Vec<f64>,
    cached_after: Vec<f64>,
}

impl Samples {
    /// Loads in a process of its own.
    fn add_process(
        &mut self,
        file: &Path,
        choices: &Choices,
        files: &[PathBuf],
    ) -> Result<(), Failure> {
        self.cached.extend(page_cache::cached_share(files, Moment::Before));
        let (finished, seconds) = load_in_process(file, choices)?;
        self.cached_after.extend(page_cache::cached_share(files, Moment::After));
        self.finished.push(finished);
        self.ready.push(seconds);
        Ok(())
    }

    fn figures(
        &self,
        name: &'static str,
        description: &'static str,
        choices: &Choices,
    ) -> LoadFigures {
        let numbers = |field: &str| -> Vec<f64> {
            self.finished.iter().filter_map(|finished| finished[field].as_f64()).collect()
        };
        let mut rows: Vec<_> = PHASES
            .iter()
            .map(|&(phase, field, description)| Row {
                phase,
                description,
                seconds: Spread::of(numbers(field)),
            })
            .collect();
        if !self.ready.is_empty() {
            rows.push(Row {
                phase: "process",
                description: "from the start of the process to the loaded model",
                seconds: Spread::of(self.ready.iter().copied()),
            });
        }
        let rates = numbers("source_bytes")
            .into_iter()
            .zip(numbers("transfer_seconds"))
            .map(|(bytes, seconds)| gb_per_s(bytes, seconds));
        let last = self.finished.last().unwrap_or(&Value::Null);
        LoadFigures {
            name,
            description,
            storage: name_of(&choices.storage),
            verify: name_of(&choices.verify),
            io: last["io"].as_str().unwrap_or_default().to_owned(),
            threads: last["threads"].as_u64().unwrap_or_default(),
            chunk_bytes: last["chunk_bytes"].as_u64().unwrap_or_default(),
            pinned: last["pinned"].as_bool().unwrap_or_default(),
            cached: spread_of_some(&self.cached),
            cached_after: spread_of_some(&self.cached_after),
            rows,
            gb_per_s: Spread::of(rates),
            share_of_reference: None,
        }
    }
}

fn spread_of_some(samples: &[f64]) -> Option<Spread> {
    (!samples.is_empty()).then(|| Spread::of(samples.iter().copied()))
}
