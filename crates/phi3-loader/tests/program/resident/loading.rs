//! Loads that publish and attach.

use super::{
    KeeperProcess, attaches, finished, load, load_arguments, publishes, resident, small_model,
    synthetic,
};
use crate::program::{Ran, below_shell, program, run};
use crate::small_model::write_large_model;
use keeper::{Connection, Found, Keeper, KeeperOptions, Key, Store};
use loader::{CancelToken, DeviceChoice, LoadOptions, Loader, Mismatch, Slot, Unobserved};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::env;
use std::io::{BufRead, BufReader, Lines};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

#[test]
fn a_second_load_attaches_and_has_the_same_weights() {
    let keeper = KeeperProcess::start(&[]);
    let dump = |file: &Path, more: &[&str], resident: Option<&str>| {
        let out = keeper.folder.path().join("dump.safetensors");
        let out_option = format!("--dump={}", out.display());
        let more = [more, &[&out_option, "--json"]].concat();
        let ran = match resident {
            Some(_) => load(file, &keeper.socket(), &more),
            None => run([&["load", file.to_str().unwrap()], &more[..]].concat()),
        };
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        let finished = ran.json_lines().pop().unwrap();
        assert_eq!(finished["resident"], resident.unwrap_or("off"), "{finished}");
        (finished["resident_key"].clone(), std::fs::read(out).unwrap())
    };
    let file = synthetic(keeper.folder.path(), 0);
    let mut keys = Vec::new();
    for more in [
        &["--device=host"][..],
        &["--device=host", "--storage=native"],
        &["--device=host,host"],
        &["--device=host,host", "--split-mode=tensor"],
        &["--device=host,host", "--split-mode=replicate"],
        &["--device=host,host", "--tensor-split=1,3"],
    ] {
        let (none, plain) = dump(&file, more, None);
        let (published, of_published) = dump(&file, more, Some("published"));
        let (attached, of_attached) = dump(&file, more, Some("attached"));
        assert!(plain == of_published && plain == of_attached, "{more:?}");
        assert_eq!((none, &published), (Value::Null, &attached));
        assert!(!keys.contains(&published), "{more:?} has the entry of another load");
        keys.push(published);
    }
    assert_eq!(keeper.connect().list().unwrap().len(), keys.len());
}

#[test]
fn attached_weights_pass_every_check() {
    let keeper = KeeperProcess::start(&[]);
    let (file, socket) = (small_model(), keeper.socket());
    publishes(&file, &socket, &["--verify=readback"]);
    for more in [
        &["--verify=checksum"][..],
        &["--verify=readback"],
        &["--protect"],
        &["--resident-reload"],
        // They take no memory.
        &["--vram-limit=0"],
        &["--deny-overflow"],
    ] {
        attaches(&file, &socket, more);
    }
}

#[test]
fn the_report_says_where_the_weights_came_from() {
    let keeper = KeeperProcess::start(&[]);
    let report = || {
        let ran = load(&small_model(), &keeper.socket(), &[]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        ran.stdout().to_owned()
    };
    let (published, attached) = (report(), report());
    let key = keeper.connect().list().unwrap()[0].manifest.key.clone();
    assert!(published.contains(&format!("\nresident  published as {key}\n")), "{published}");
    assert!(attached.contains(&format!("\nresident  attached to {key}\n")), "{attached}");
    assert!(attached.contains("\nread      0 bytes"), "{attached}");
    assert!(attached.contains("attaching and verifying\n"), "{attached}");
}

#[test]
fn protected_weights_are_the_same_weights() {
    let file = small_model();
    let folder = tempfile::tempdir().unwrap();
    let dump = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let dump = format!("--dump={}", out.display());
        let load = ["load", file.to_str().unwrap(), "--device=host", &dump];
        let ran = run([&load, more].concat());
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        let is_reported = ran.stdout().contains("\nprotected the memory is read-only\n");
        assert_eq!(is_reported, !more.is_empty(), "{}", ran.stdout());
        std::fs::read(out).unwrap()
    };
    assert!(dump("plain", &[]) == dump("protected", &["--protect"]));
}

/// On the host, memory that can be protected is a file.
#[test]
fn the_limit_of_file_sizes_is_named() {
    let file = small_model();
    let load = ["load", file.to_str().unwrap(), "--device=host", "--protect"];
    let ran = Ran::of(&mut below_shell("ulimit -f 1", load));
    assert_eq!(ran.code(), 6, "{}", ran.stderr());
    assert!(ran.stderr().contains("error[INSUFFICIENT_HOST_MEMORY]"), "{}", ran.stderr());
    assert!(ran.stderr().contains("RLIMIT_FSIZE (`ulimit -f`) allows only "), "{}", ran.stderr());
}

#[test]
fn the_timeline_of_attached_weights_has_no_reads() {
    let keeper = KeeperProcess::start(&[]);
    publishes(&small_model(), &keeper.socket(), &[]);
    let out = keeper.folder.path().join("timeline.json");
    attaches(&small_model(), &keeper.socket(), &["--timeline", out.to_str().unwrap()]);
    let trace: Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    let spans = trace["traceEvents"].as_array().unwrap();
    assert!(spans.iter().all(|span| span["ph"] != "X"), "{trace}");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for (more, reason) in [
        (&["--resident=keeper.sock", "--fit"][..], "'--fit'"),
        (&["--resident-reload"], "--resident <SOCKET>"),
    ] {
        let ran = run([&["load", "one"], more].concat());
        assert_eq!(ran.code(), 2, "{}", ran.stderr());
        assert!(ran.stderr().contains(reason), "{}", ran.stderr());
    }
}

#[test]
fn a_changed_file_is_loaded_and_replaces_its_old_weights() {
    let keeper = KeeperProcess::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let key = publishes(&synthetic(folder.path(), 1), &keeper.socket(), &[]);
    // The headers of both files are equal, so the key is the same.
    let file = synthetic(folder.path(), 2);
    assert_eq!(publishes(&file, &keeper.socket(), &[]), key);
    attaches(&file, &keeper.socket(), &[]);
    assert_eq!(keeper.connect().list().unwrap().len(), 1);
}

#[test]
fn of_two_loads_that_start_together_one_attaches() {
    let keeper = KeeperProcess::start(&[]);
    let start = || {
        let mut load = program(load_arguments(&small_model(), &keeper.socket(), &["--json"]));
        load.stdout(Stdio::piped()).spawn().unwrap()
    };
    let loads = [start(), start(), start()];
    let mut results = loads.map(|load| {
        let output = load.wait_with_output().unwrap();
        assert!(output.status.success());
        let last = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
        let finished: Value = serde_json::from_str(&last).unwrap();
        finished["resident"].as_str().unwrap().to_owned()
    });
    results.sort();
    assert_eq!(results, ["attached", "attached", "published"]);
}

/// A load that waits, because another connection has claimed its weights.
struct WaitingLoad {
    process: Child,
    events: Lines<BufReader<ChildStdout>>,
}

impl WaitingLoad {
    /// Claims the weights of the small model, and starts a load of it. Returns when the load has read the header of its
    /// file.
    fn start(keeper: &KeeperProcess) -> (Self, Connection) {
        let (file, socket) = (small_model(), keeper.socket());
        let key: Key = publishes(&file, &socket, &[]).parse().unwrap();
        let mut claimant = keeper.connect();
        assert!(claimant.remove(&key).unwrap());
        assert!(matches!(claimant.find(&key, &mut || true), Ok(Found::Claimed)));
        let mut load = program(load_arguments(&file, &socket, &["--json"]));
        let mut process = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut events = BufReader::new(process.stdout.take().unwrap()).lines();
        let is_planned = |line: std::io::Result<String>| line.unwrap().contains("\"planned\"");
        assert!(events.any(is_planned));
        (Self { process, events }, claimant)
    }

    /// Waits for the end. Returns the last event and the exit code.
    fn end(mut self) -> (Value, Option<i32>) {
        let last = self.events.last().unwrap().unwrap();
        (serde_json::from_str(&last).unwrap(), self.process.wait().unwrap().code())
    }
}

#[test]
fn a_load_that_waits_for_another_one_can_be_cancelled() {
    for (signal, exit_code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let keeper = KeeperProcess::start(&[]);
        let (load, _claimant) = WaitingLoad::start(&keeper);
        kill_process(Pid::from_child(&load.process), signal).unwrap();
        let (last, code) = load.end();
        assert_eq!((&last["code"], code), (&"CANCELLED".into(), Some(exit_code)), "{last}");
    }
}

#[test]
fn a_load_whose_predecessor_ends_without_weights_loads_them_itself() {
    let keeper = KeeperProcess::start(&[]);
    let (load, claimant) = WaitingLoad::start(&keeper);
    drop(claimant);
    let (last, code) = load.end();
    assert_eq!((&last["resident"], code), (&"published".into(), Some(0)), "{last}");
}

#[test]
fn a_load_that_is_killed_leaves_nothing_to_attach_to() {
    let keeper = KeeperProcess::start(&[]);
    let file = keeper.folder.path().join("large.gguf");
    write_large_model(&file);
    let slow = ["--json", "--threads=1", "--chunk=4096", "--verify=readback"];
    let mut load = program(load_arguments(&file, &keeper.socket(), &slow));
    let mut load = load.stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(load.stdout.take().unwrap()).lines();
    assert!(events.any(|line| line.unwrap().contains("\"allocated\"")));
    load.kill().unwrap();
    load.wait().unwrap();
    assert_eq!(keeper.connect().list().unwrap(), []);
    publishes(&small_model(), &keeper.socket(), &[]);
}

/// The variable with the socket for [`user`].
const SOCKET_OF_USER: &str = "PHI3_LOADER_TEST_SOCKET";

/// Uses the weights of the small model until it is killed. This is a process of other tests; as a test of its own it does
/// nothing.
#[test]
fn user() {
    let Some(socket) = env::var_os(SOCKET_OF_USER) else { return };
    let mut store = Connection::open(Path::new(&socket)).unwrap();
    let model = loaded(&mut store);
    println!("resident: {:?}", model.stats().resident);
    std::io::stdin().lines().for_each(drop);
}

fn loaded(store: &mut dyn Store) -> loader::LoadedModel {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let token = CancelToken::new();
    loader.load_resident(small_model(), store, Mismatch::Fail, &mut Unobserved, &token).unwrap()
}

/// Starts [`user`] as a process. Checks that it gets its weights in this way.
fn start_user(keeper: &KeeperProcess, resident: &str) -> Child {
    let mut user = Command::new(env::current_exe().unwrap());
    user.args(["resident::loading::user", "--exact", "--nocapture"]);
    user.env(SOCKET_OF_USER, keeper.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut user = user.spawn().unwrap();
    let mut lines = BufReader::new(user.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| {
        line.unwrap().split_once("resident: ").map(|(_, word)| word.to_lowercase())
    });
    assert_eq!(line.as_deref(), Some(resident));
    user
}

#[test]
fn weights_outlive_all_processes_that_used_them() {
    let keeper = KeeperProcess::start(&[]);
    let mut publisher = start_user(&keeper, "published");
    let mut attached = start_user(&keeper, "attached");
    let mut connection = keeper.connect();
    assert_eq!(connection.list().unwrap()[0].users, 2);
    for user in [&mut publisher, &mut attached] {
        user.kill().unwrap();
        user.wait().unwrap();
    }
    while connection.list().unwrap()[0].users > 0 {}
    let key = attaches(&small_model(), &keeper.socket(), &[]);
    let ran = resident(&keeper.socket(), ["verify", &key]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
}

#[test]
fn a_worker_hands_its_weights_to_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("worker.sock");
    let options = LoadOptions::new().device(DeviceChoice::Host).shareable(true);
    let mut model = Loader::new(options).load(small_model(), &mut Unobserved).unwrap();
    let mut keeper = Keeper::bind(&socket, KeeperOptions::default()).unwrap();
    keeper.insert(model.hand_over().unwrap()).unwrap();
    let (stop, running) = std::io::pipe().unwrap();
    let serving = std::thread::spawn(move || keeper.run(stop.as_fd()));
    drop(model);
    attaches(&small_model(), &socket, &[]);
    drop(running);
    serving.join().unwrap().unwrap();
    assert!(!socket.exists());
}

#[test]
fn weights_in_use_outlive_their_keeper() {
    let keeper = KeeperProcess::start(&[]);
    let (mut publisher, mut user) = (keeper.connect(), keeper.connect());
    let published = loaded(&mut publisher);
    let attached = loaded(&mut user);
    let folder = keeper.kill();
    let q = |model: &loader::LoadedModel| model.read_slot(Slot::AttnQ(0)).unwrap().unwrap();
    assert!(q(&published) == q(&attached));
    attached.verify_residency().unwrap();
    let keeper = KeeperProcess::start_in(folder, &[]);
    let again = finished(&small_model(), &keeper.socket(), &[]);
    assert_eq!(again["resident"], "published");
}
