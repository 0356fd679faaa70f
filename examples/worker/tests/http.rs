//! Tests of the worker as a process, over its HTTP interface.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "a reader of the output may want the latency of a signal")]

use loader::gguf_format::GgufFile;
use loader::keeper::{Connection, Keeper, KeeperOptions};
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use ureq::Body;
use ureq::http::Response;

const SMALL_MODEL: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");

/// A running worker. Ends with the test.
struct Worker {
    process: Child,
    address: String,
}

impl Worker {
    fn start(model: impl AsRef<Path>) -> Self {
        Self::start_with(model, &[])
    }

    /// Starts a worker. Returns when it answers requests.
    fn start_with(model: impl AsRef<Path>, more: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_worker"))
            .arg(model.as_ref())
            .args(["--listen", "127.0.0.1:0", "--device", "host"])
            .args(more)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening ").unwrap().trim_end().to_owned();
        Self { process, address }
    }

    /// Starts a worker. Returns when it has loaded the model.
    fn ready(model: impl AsRef<Path>) -> Self {
        Self::ready_with(model, &[])
    }

    fn ready_with(model: impl AsRef<Path>, more: &[&str]) -> Self {
        let worker = Self::start_with(model, more);
        assert_eq!(worker.events().last().unwrap()["event"], "finished");
        worker
    }

    fn get(&self, path: &str) -> Response<Body> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        agent.get(format!("http://{}{path}", self.address)).call().unwrap()
    }

    /// Returns the status and the answer of `/health`.
    fn health(&self) -> (u16, Value) {
        let mut response = self.get("/health");
        (response.status().as_u16(), response.body_mut().read_json().unwrap())
    }

    /// Returns the events of `/progress` as they arrive.
    fn events(&self) -> impl Iterator<Item = Value> + use<> {
        let response = self.get("/progress");
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
    }

    /// Returns the value of each metric.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let mut response = self.get("/metrics");
        let content_type = &response.headers()["content-type"];
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
        let text = response.body_mut().read_to_string().unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.split_once(' ').unwrap();
                let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
                assert!(text.contains(&format!("# HELP {name} ")), "{text}");
                assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{text}");
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for the end of the process. Returns its exit code and its standard error.
    fn wait(&mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.process.wait().unwrap().code(), stderr)
    }

    /// Waits for the end of a process whose load fails. Checks that it reports the error as its exit code and
    /// as one line of JSON. Returns the error.
    #[track_caller]
    fn failure(&mut self, exit_code: i32) -> Value {
        let (code, stderr) = self.wait();
        assert_eq!(code, Some(exit_code), "{stderr}");
        let error: Value = serde_json::from_str(&stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(error["exit_code"], exit_code, "{stderr}");
        error
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_loaded_model_is_healthy_and_each_check_compares_its_bytes() {
    let worker = Worker::ready(SMALL_MODEL);
    for round in 1..=3 {
        let (status, health) = worker.health();
        assert_eq!((status, &health["status"]), (200, &"ok".into()), "{health}");
        assert_eq!(health["device"], "host");
        assert!(health["vram_bytes"].as_u64() > Some(0), "{health}");
        assert!(health["pointers_checked"].as_u64() > Some(0), "{health}");
        assert!(health["rehash"]["bytes"].as_u64() > Some(0), "{health}");
        // The budget of one check is larger than the model.
        assert_eq!(health["rehash"]["rounds"], round);
    }
}

#[test]
fn the_progress_has_every_step_also_after_the_load() {
    let worker = Worker::start(SMALL_MODEL);
    for events in [worker.events().collect::<Vec<_>>(), worker.events().collect()] {
        let steps: Vec<_> = events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .filter(|step| *step != "transferred")
            .collect();
        let units = ["progress"; 5];
        let ends = ["verified", "finished"];
        assert_eq!(steps, [&["opened", "planned", "allocated"][..], &units, &ends].concat());
        let units = events.iter().filter(|event| event["event"] == "progress");
        for (number, event) in (1..).zip(units) {
            assert_eq!((&event["unit"], &event["of"]), (&number.into(), &5.into()), "{event}");
        }
    }
}

#[test]
fn the_metrics_agree_with_the_events_and_the_health() {
    let worker = Worker::ready(SMALL_MODEL);
    let (_, health) = worker.health();
    let finished = worker.events().last().unwrap();
    let metrics = worker.metrics();
    let expected = BTreeMap::from(
        [
            ("worker_load_units_done", 5.0),
            ("worker_load_units", 5.0),
            ("worker_load_done_bytes", finished["source_bytes"].as_f64().unwrap()),
            ("worker_load_bytes", finished["source_bytes"].as_f64().unwrap()),
            ("worker_load_duration_seconds", finished["seconds"].as_f64().unwrap()),
            ("worker_vram_bytes", health["vram_bytes"].as_f64().unwrap()),
            ("worker_rehash_bytes_total", health["rehash"]["bytes"].as_f64().unwrap()),
            ("worker_rehash_rounds_total", 1.0),
            ("worker_mismatches_total", 0.0),
            ("worker_weights_attached", 0.0),
            ("worker_weights_resident", 0.0),
            ("worker_healthy", 1.0),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    assert_eq!(metrics, expected);
}

#[test]
fn a_worker_that_is_killed_leaves_its_weights_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("keeper.sock");
    let mut keeper = Keeper::bind(&socket, KeeperOptions::default()).unwrap();
    let (stop, running) = std::io::pipe().unwrap();
    let serving = std::thread::spawn(move || keeper.run(stop.as_fd()));
    let start = || Worker::ready_with(SMALL_MODEL, &["--resident", socket.to_str().unwrap()]);
    let is = |worker: &Worker, resident: &str, attached: f64| {
        let (status, health) = worker.health();
        assert_eq!((status, &health["resident"]), (200, &resident.into()), "{health}");
        let metrics = worker.metrics();
        assert_eq!(metrics["worker_weights_attached"], attached);
        assert_eq!(metrics["worker_weights_resident"], 1.0);
    };
    let mut first = start();
    is(&first, "published", 0.0);
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let second = start();
    is(&second, "attached", 1.0);
    // Several workers share the weights.
    is(&start(), "attached", 1.0);
    let users = Connection::open(&socket).unwrap().list().unwrap()[0].users;
    assert!(users >= 1, "the second worker uses the weights");
    drop(running);
    serving.join().unwrap().unwrap();
}

#[test]
fn a_worker_without_its_keeper_loads_the_file() {
    let worker = Worker::ready_with(SMALL_MODEL, &["--resident", "/missing/keeper.sock"]);
    let (status, health) = worker.health();
    assert_eq!((status, &health["resident"]), (200, &"off".into()), "{health}");
}

#[test]
fn an_unknown_path_is_not_found() {
    assert_eq!(Worker::start(SMALL_MODEL).get("/unknown").status(), 404);
}

#[test]
fn a_missing_file_ends_the_worker_with_exit_code_7() {
    let error = Worker::start("/missing/model.gguf").failure(7);
    assert_eq!(error["code"], "FILE_NOT_FOUND");
    assert!(error["message"].as_str().unwrap().contains("/missing/model.gguf"), "{error}");
}

#[test]
fn a_truncated_file_ends_the_worker_with_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("truncated.gguf");
    let whole = fs::read(SMALL_MODEL).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = Worker::start(&path).failure(3);
    assert_eq!(error["class"], "MODEL_LOAD_FAILED", "{error}");
}

#[test]
fn a_flipped_bit_makes_the_worker_unhealthy_for_good() {
    const TENSOR: &str = "blk.1.ffn_down.weight";
    let worker = Worker::ready(SMALL_MODEL);
    assert_eq!(worker.health().0, 200);
    flip_bit(worker.process.id(), &tensor_bytes(Path::new(SMALL_MODEL), TENSOR));
    for _ in 0..2 {
        let (status, health) = worker.health();
        assert_eq!((status, &health["status"]), (503, &"failed".into()), "{health}");
        let error = &health["error"];
        assert_eq!(error["code"], "VERIFICATION_FAILED");
        assert_eq!((&error["retriable"], &error["exit_code"]), (&false.into(), &9.into()));
        assert!(error["message"].as_str().unwrap().contains(TENSOR), "{error}");
    }
    let metrics = worker.metrics();
    assert_eq!((metrics["worker_healthy"], metrics["worker_mismatches_total"]), (0.0, 1.0));
}

fn tensor_bytes(model: &Path, name: &str) -> Vec<u8> {
    let gguf = GgufFile::open(model).unwrap();
    let range = gguf.tensor(name).unwrap().range();
    fs::read(model).unwrap()[range.start as usize..range.end as usize].to_vec()
}

/// Flips one bit of every copy of these bytes in the memory of the process.
fn flip_bit(process: u32, bytes: &[u8]) {
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{process}/mem"))
        .expect("the system lets a process write to the memory of its child");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut copies = 0;
    for (start, end) in maps.lines().filter_map(writable_anonymous) {
        let mut mapping = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut mapping, start).is_err() {
            // A thread has unmapped it in the meantime.
            continue;
        }
        // Tensors start at multiples of 16 bytes.
        for at in (0..mapping.len()).step_by(16).filter(|at| mapping[*at..].starts_with(bytes)) {
            memory.write_all_at(&[mapping[at] ^ 1], start + at as u64).unwrap();
            copies += 1;
        }
    }
    assert!(copies > 0, "the tensor is not in the memory of the worker");
}

/// Returns the range of a line of `/proc/PID/maps`, if it is writable and no file.
fn writable_anonymous(line: &str) -> Option<(u64, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [range, permissions, _, _, inode, ..] = fields[..] else { return None };
    if !permissions.starts_with("rw") || inode != "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

#[test]
fn a_signal_during_the_load_cancels_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(dir.path());
    for (signal, exit_code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut worker = on_one_cpu(|| Worker::start(&path));
        let mut events = worker.events();
        events.find(|event| event["event"] == "progress").unwrap();
        let (status, health) = worker.health();
        assert_eq!((status, &health["status"]), (503, &"loading".into()), "{health}");
        assert!(health["unit"].as_u64() >= Some(1), "{health}");
        assert!(health["of"].as_u64() > health["unit"].as_u64(), "{health}");
        assert!(health["bytes"].as_u64() < health["of_bytes"].as_u64(), "{health}");
        assert!(health["label"].as_str().unwrap().ends_with(" loaded"), "{health}");
        assert_eq!(worker.metrics()["worker_healthy"], 0.0);

        let sent = Instant::now();
        worker.send(signal);
        let last = events.last().unwrap();
        let error = worker.failure(exit_code);
        println!("the worker ended {:?} after the signal", sent.elapsed());
        assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &"CANCELLED".into()));
        assert_eq!(error["code"], "CANCELLED");
    }
}

/// Runs `start` on one CPU only. Processes that it starts stay there, so that their loads are slow on every
/// machine.
fn on_one_cpu<T>(start: impl FnOnce() -> T) -> T {
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    let started = start();
    sched_setaffinity(None, &all).unwrap();
    started
}

/// Writes a model of zeros whose load takes seconds. It has the shapes of Phi-3-mini, but fewer layers, so that
/// 4 GB of memory are enough. The file is sparse: it takes no space on the disk.
fn large_model(dir: &Path) -> PathBuf {
    const LAYERS: u32 = 8;
    let mut model = Blueprint::new(Preset::Mini4k, Layout::Fused, TypeMix::F32);
    for (key, value) in &mut model.metadata {
        if key == "phi3.block_count" {
            *value = LAYERS.into();
        }
    }
    model.tensors.retain(|tensor| {
        let layer = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        layer.is_none_or(|layer| layer.parse::<u32>().unwrap() < LAYERS)
    });
    let layout = model.writer().layout().unwrap();
    let path = dir.join("large.gguf");
    let file = File::create(&path).unwrap();
    file.set_len(layout.file_len()).unwrap();
    file.write_all_at(layout.header(), 0).unwrap();
    path
}

#[test]
fn sigterm_after_the_load_ends_the_worker_with_exit_code_0() {
    let mut worker = Worker::ready(SMALL_MODEL);
    worker.send(Signal::TERM);
    assert_eq!(worker.wait(), (Some(0), String::new()));
}
