//! Measures loads and each of their phases.

use super::document::{LoadFigures, Row, Spread, gb_per_s};
use super::page_cache::{self, Moment};
use super::reading::Unread;
use super::several::Several;
use super::steps::{Step, Steps};
use super::{child, load_command};
use crate::args::{Bench, Choices};
use crate::failure::{Failure, ProcessFailure};
use crate::json::{Event, LastEvent};
use cuda_sys::DeviceKind;
use keeper::{Keeper, KeeperOptions};
use loader::{
    CancelToken, Error, LoadedModel, Loader, Replace, Storage, Unobserved, Verify, threads,
};
use model_phi3::SplitMode;
use serde::Deserialize;
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Display;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Pause before a load, so that the driver can clear freed memory. It uses the copy engines of the device for
/// this, so a load that follows at once would share them.
const CLEARED_AFTER: Duration = Duration::from_millis(250);

/// The fields of a `finished` event that `bench` uses. All of them must be present.
#[derive(Deserialize)]
struct Finished {
    source_bytes: u64,
    parse_seconds: f64,
    plan_seconds: f64,
    context_seconds: f64,
    pin_seconds: f64,
    allocate_seconds: f64,
    prepare_seconds: f64,
    transfer_seconds: f64,
    verify_seconds: f64,
    seconds: f64,
    device: String,
    io: String,
    threads: u64,
    chunk_bytes: u64,
    pinned: bool,
}

/// A phase: its name, its seconds and its description.
type Phase = (&'static str, fn(&Finished) -> f64, &'static str);

/// The phases, in order.
const PHASES: [Phase; 9] = [
    ("parse", |load| load.parse_seconds, "Opens the file and checks its header."),
    ("plan", |load| load.plan_seconds, "Decides where each weight goes."),
    ("context", |load| load.context_seconds, "Opens the device."),
    ("pin", |load| load.pin_seconds, "Allocates buffers for the transfer."),
    ("allocate", |load| load.allocate_seconds, "Allocates memory for the weights."),
    ("prepare", |load| load.prepare_seconds, "Starts threads, loads device code."),
    ("transfer", |load| load.transfer_seconds, "Moves the weights, or attaches to them."),
    ("verify", |load| load.verify_seconds, "Checks the weights on the device."),
    ("load", |load| load.seconds, "All phases together."),
];

/// Measures loads of a file that is in the page cache. Each runs in a new process, as when a user starts the
/// program. The variants take turns, so that other work on the machine affects all of them equally.
pub(super) fn warm(
    arguments: &Bench,
    several: Option<&Several>,
    files: &[PathBuf],
    steps: &Steps,
    token: &CancelToken,
) -> Result<Vec<LoadFigures>, Failure> {
    let plain = &arguments.choices;
    let what = "A new process loads the file, which the system has in memory (page cache).";
    let mut turns = vec![("warm", what, plain.clone(), None)];
    if arguments.variants {
        let checksum = Choices { verify: Verify::Checksum, ..plain.clone() };
        let native = Choices { storage: Storage::Native, ..plain.clone() };
        let what = "As warm, with --verify checksum: compares digests of file and device.";
        turns.push(("checksum", what, checksum, None));
        let what = "As warm, with --storage native: weights keep the format of the file.";
        turns.push(("native", what, native, None));
    }
    if let Some(Several { list, modes, .. }) = several {
        let choices = Choices { device: list.clone(), ..plain.clone() };
        turns.extend(modes.iter().map(|&mode| {
            let what = match mode {
                SplitMode::Layer => "As warm, to all devices: each gets some of the layers.",
                SplitMode::Tensor => "As warm, to all devices: each gets a part of every layer.",
                _ => "As warm, to all devices: each gets the whole model.",
            };
            (mode.name(), what, choices.clone(), Some(format!("--split-mode={mode}").into()))
        }));
    }
    if let Some(via) = &arguments.via {
        let what = "As warm, over the links of the GPUs of --via as well.";
        turns.push(("via", what, plain.clone(), Some(format!("--via={via}").into())));
    }
    let mut samples: Vec<_> = turns.iter().map(|_| Samples::default()).collect();
    let mut load = 0;
    for _ in 0..arguments.repeat {
        for ((_, _, choices, more), samples) in turns.iter().zip(&mut samples) {
            load += 1;
            steps.start_run(Step::Warm, load, arguments.repeat as usize * turns.len());
            samples.add_process(&arguments.file, choices, more.as_ref(), files, token)?;
        }
    }
    let named = turns.iter().zip(samples);
    Ok(named
        .map(|((name, what, choices, _), samples)| samples.figures(name, what, choices))
        .collect())
}

/// Loads of a file of which all or half is not in the page cache. Each runs in a new process.
#[derive(Default)]
pub(super) struct FromStorage {
    half_cached: Samples,
    cold: Samples,
}

impl FromStorage {
    /// Runs one load of each kind.
    pub(super) fn add(
        &mut self,
        arguments: &Bench,
        files: &[PathBuf],
        token: &CancelToken,
    ) -> Result<(), Failure> {
        let unread = |error: Unread| error.of(&arguments.file);
        page_cache::fill_half(files, token).map_err(unread)?;
        self.half_cached.add_process(&arguments.file, &arguments.choices, None, files, token)?;
        page_cache::drop_pages(files).map_err(|error| unread(error.into()))?;
        self.cold.add_process(&arguments.file, &arguments.choices, None, files, token)
    }

    pub(super) fn figures(&self, choices: &Choices) -> [LoadFigures; 2] {
        let half = "As warm, but only the first half of the file is in the page cache.";
        let cold = "As warm, but the file is not in the page cache and comes from its drive.";
        [
            self.half_cached.figures("half-cached", half, choices),
            self.cold.figures("cold", cold, choices),
        ]
    }
}

/// Measures loads by loaders that have loaded before: the device is open and the ring is pinned. One kind starts
/// [`CLEARED_AFTER`] after the previous model was dropped. The other replaces a model and reuses its memory. Both take
/// turns.
pub(super) fn reused(
    arguments: &Bench,
    files: &[PathBuf],
    steps: &Steps,
    token: &CancelToken,
) -> Result<[LoadFigures; 2], Failure> {
    let (file, choices) = (&arguments.file, &arguments.choices);
    let mut loader = Loader::new(choices.options());
    let first = loader.load_cancellable(file, &mut Unobserved, token)?;
    // On the host, shareable memory is a file, for which the limit of file sizes (`ulimit -f`) holds.
    let is_gpu = first.device().iter().any(|device| *device != DeviceKind::Host);
    let mut replacing = Loader::new(choices.options().shareable(is_gpu));
    drop(first);
    let (mut reused, mut swap) = (Samples::default(), Samples::default());
    for run in 1..=arguments.repeat as usize {
        steps.start_run(Step::Reused, run, arguments.repeat as usize);
        std::thread::sleep(CLEARED_AFTER);
        let model = loader.load_cancellable(file, &mut Unobserved, token)?;
        reused.add_model(&model, files)?;
        drop(model);
        let model = replacing.load_cancellable(file, &mut Unobserved, token)?;
        let how = Replace::ReuseMemory;
        let replaced = replacing.replace(model, file, how, &mut Unobserved, token);
        swap.add_model(&replaced.map_err(|error| error.error)?, files)?;
    }
    let of_reused = "A process loads the file again: its device is open, its buffers are ready.";
    let of_swap = "A process replaces its model: the new one takes the memory of the old one.";
    Ok([reused.figures("reused", of_reused, choices), swap.figures("swap", of_swap, choices)])
}

/// Measures loads that attach to resident weights. This process keeps the weights, as `hold` does.
pub(super) fn attached(
    arguments: &Bench,
    files: &[PathBuf],
    steps: &Steps,
    token: &CancelToken,
) -> Result<LoadFigures, Failure> {
    let (file, choices) = (&arguments.file, &arguments.choices);
    let unstarted = |error| Failure::Start("a keeper of resident weights", error);
    let folder = tempfile::tempdir().map_err(unstarted)?;
    let socket = folder.path().join("keeper.sock");
    let mut keeper = Keeper::bind(&socket, KeeperOptions::default())?;
    let (stop, end) = std::io::pipe().map_err(unstarted)?;
    std::thread::scope(|scope| {
        // When this is dropped, the keeper ends.
        let _end = end;
        let keep = move || keeper.run(stop.as_fd());
        threads::builder().spawn_scoped(scope, keep).map_err(unstarted)?;
        let mut resident = OsString::from("--resident=");
        resident.push(&socket);
        // The first load publishes the weights.
        steps.start(Step::Attached);
        load_in_process(file, choices, Some(&resident), token)?;
        let mut samples = Samples::default();
        for run in 1..=arguments.repeat as usize {
            steps.start_run(Step::Attached, run, arguments.repeat as usize);
            samples.add_process(file, choices, Some(&resident), files, token)?;
        }
        let what = "A new process finds the weights on the device, kept by another process.";
        Ok(samples.figures("attached", what, choices))
    })
}

/// Runs a load in a new process. Returns its last event, and the seconds from the start of the process to that
/// event.
fn load_in_process(
    file: &Path,
    choices: &Choices,
    more: Option<&OsString>,
    token: &CancelToken,
) -> Result<(Finished, f64), Failure> {
    let failed = |error: std::io::Error| broken_load(&error);
    let options = choices.to_arguments().into_iter().map(OsString::from);
    let options = options.chain(more.cloned()).chain(["--json".into()]);
    let unstarted = |error| Failure::Start("a measured load", error);
    let mut command = load_command(file, options).map_err(unstarted)?;
    let start = Instant::now();
    // Standard error is not needed: the last event contains a failure, and warnings would be repeated for each
    // load.
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let child = child::start(&mut command).map_err(unstarted)?;
    let mut last = None;
    let ended = child.run(token, &mut |_, line| {
        last = Some((line.to_owned(), start.elapsed().as_secs_f64()));
    });
    let status = ended.map_err(failed)?.ok_or(Error::Cancelled)?;
    let (line, seconds) = last.ok_or_else(|| broken_load(&status))?;
    Ok((outcome(&line, status)?, seconds))
}

/// Converts the last event and the exit status of a process into a result.
fn outcome(line: &str, status: ExitStatus) -> Result<Finished, Failure> {
    let event: Value =
        serde_json::from_str(line).map_err(|error| broken_load(&format!("{error}: {line}")))?;
    let text = |field: &str| event[field].as_str().map(str::to_owned);
    match event["event"].as_str() {
        Some("finished") if status.success() => finished_of(event),
        Some("failed") => Err(Failure::Process(ProcessFailure {
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            help: text("help"),
            exit_code: status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        })),
        // The process was killed or crashed before it could print its last event.
        _ => Err(broken_load(&status)),
    }
}

fn finished_of(event: Value) -> Result<Finished, Failure> {
    serde_json::from_value(event).map_err(|error| broken_load(&error))
}

/// Returns the failure of a load whose process ended without a valid last event.
fn broken_load(why: &dyn Display) -> Failure {
    Failure::Process(ProcessFailure {
        code: "INTERNAL".to_owned(),
        message: format!("a measured load failed: {why}"),
        help: None,
        exit_code: 1,
    })
}

/// The results of the loads of one kind.
#[derive(Default)]
struct Samples {
    finished: Vec<Finished>,
    ready: Vec<f64>,
    cached: Vec<f64>,
    cached_after: Vec<f64>,
}

impl Samples {
    /// Runs a load in its own process.
    fn add_process(
        &mut self,
        file: &Path,
        choices: &Choices,
        more: Option<&OsString>,
        files: &[PathBuf],
        token: &CancelToken,
    ) -> Result<(), Failure> {
        self.cached.extend(page_cache::cached_share(files, Moment::Before));
        let (finished, seconds) = load_in_process(file, choices, more, token)?;
        self.cached_after.extend(page_cache::cached_share(files, Moment::After));
        self.finished.push(finished);
        self.ready.push(seconds);
        Ok(())
    }

    /// Adds a load of this process.
    fn add_model(&mut self, model: &LoadedModel, files: &[PathBuf]) -> Result<(), Failure> {
        self.cached.extend(page_cache::cached_share(files, Moment::Before));
        let event = serde_json::to_value(Event::new(&LastEvent::finished(model.stats())))
            .map_err(|error| broken_load(&error))?;
        self.finished.push(finished_of(event)?);
        Ok(())
    }

    fn figures(
        &self,
        name: &'static str,
        description: &'static str,
        choices: &Choices,
    ) -> LoadFigures {
        let mut rows: Vec<_> = PHASES
            .iter()
            .map(|&(phase, seconds, description)| Row {
                phase,
                description,
                seconds: Spread::of(self.finished.iter().map(seconds)),
            })
            .collect();
        if !self.ready.is_empty() {
            rows.push(Row {
                phase: "process",
                description: "From process start to loaded model.",
                seconds: Spread::of(self.ready.iter().copied()),
            });
        }
        let rates = self
            .finished
            .iter()
            .map(|load| gb_per_s(load.source_bytes as f64, load.transfer_seconds));
        let last = self.finished.last();
        LoadFigures {
            name,
            description,
            device: last.map(|load| load.device.clone()).unwrap_or_default(),
            storage: choices.storage.to_string(),
            verify: choices.verify.to_string(),
            io: last.map(|load| load.io.clone()).unwrap_or_default(),
            threads: last.map_or(0, |load| load.threads),
            chunk_bytes: last.map_or(0, |load| load.chunk_bytes),
            pinned: last.is_some_and(|load| load.pinned),
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

#[cfg(test)]
mod tests {
    use super::{Failure, ProcessFailure, outcome};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn failure_of(line: &str, status: ExitStatus) -> ProcessFailure {
        match outcome(line, status) {
            Err(Failure::Process(failure)) => failure,
            Err(other) => panic!("another failure: {other:?}"),
            Ok(_) => panic!("a successful load"),
        }
    }

    #[test]
    fn the_failure_of_a_killed_load_names_the_signal() {
        let killed = ExitStatus::from_raw(9);
        for line in [r#"{"event":"progress","unit":1}"#, r#"{"event":"finished","seconds":1.0}"#] {
            let failure = failure_of(line, killed);
            assert_eq!((failure.code.as_str(), failure.exit_code), ("INTERNAL", 1));
            assert!(failure.message.contains("signal: 9"), "{}", failure.message);
        }
    }

    #[test]
    fn a_failed_load_keeps_its_code_message_and_help() {
        let line = r#"{"event":"failed","code":"DEVICE_UNAVAILABLE","message":"no GPU","help":"plug one in"}"#;
        let failure = failure_of(line, ExitStatus::from_raw(5 << 8));
        assert_eq!((failure.code.as_str(), failure.exit_code), ("DEVICE_UNAVAILABLE", 5));
        assert_eq!(failure.message, "no GPU");
        assert_eq!(failure.help.as_deref(), Some("plug one in"));
    }

    #[test]
    fn a_finished_event_without_a_required_field_is_a_failure() {
        let failure =
            failure_of(r#"{"event":"finished","source_bytes":1}"#, ExitStatus::from_raw(0));
        assert!(failure.message.contains("parse_seconds"), "{}", failure.message);
    }
}
