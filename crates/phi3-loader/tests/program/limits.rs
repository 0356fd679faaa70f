//! Runs all commands under limits. Checks that they end in time with a documented exit code, and that their
//! outputs are complete or absent.

use crate::codes::is_sanitized;
use crate::common::model_path;
use crate::small_model::{TENSORS, phi3_keys, write_large_model};
use crate::trial::{Bench, TRIALS, timed};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const PROGRAM: &str = env!("CARGO_BIN_EXE_phi3-loader");
const MIB: u64 = 1 << 20;
/// The largest number of random limits in a row under which the program may fail to start.
const MOST_PASSED_OVER: usize = 200;

#[test]
fn sixty_runs_under_limits_end_with_a_documented_exit_code() {
    run(60, 1);
}

#[test]
#[ignore = "takes minutes; `cargo xtask ci --full` runs it"]
fn three_thousand_runs_under_limits_end_with_a_documented_exit_code() {
    run(3000, 2);
}

/// The variable `RUST_MIN_STACK` sets the default stack size of the standard library's threads.
#[test]
fn a_small_default_stack_changes_nothing() {
    let bench = Bench::new(Path::new(PROGRAM), &model_path("tied-gqa-bf16.gguf"));
    for trial in &TRIALS {
        let small = ["env", "RUST_MIN_STACK=4096"].map(OsString::from);
        let ran = bench.run(trial, |command| small.into_iter().chain(command).collect());
        bench.judge(trial, &ran).unwrap_or_else(|what| panic!("{trial}: {what}"));
        assert_eq!(ran.code(), Ok(0), "{trial}: {}", ran.stderr());
    }
}

/// A ring of 2 GiB and weights of 560 MB do not fit into 1 GiB. The load is refused before it allocates them,
/// and the message names the limit.
#[test]
fn a_load_that_does_not_fit_is_refused_and_the_limit_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    for (kind, name) in [
        (Kind::AddressSpace, "RLIMIT_AS"),
        (Kind::Data, "RLIMIT_DATA"),
        (Kind::GroupMemory, "the memory cgroup"),
    ] {
        if !kind.works() {
            say(&format!("limits: {kind:?} cannot be limited here"));
            continue;
        }
        let load = ["load", path.to_str().unwrap(), "--device=host", "--json"];
        let load = [&load[..], &["--chunk=64MiB", "--depth=32"]].concat();
        let output = Limited { kind, limit: 1 << 30, user: 0 }.run(&load);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(6), "{stdout}");
        let failed: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert_eq!(failed["code"], "INSUFFICIENT_VRAM");
        let message = failed["message"].as_str().unwrap();
        for part in [
            // 32 chunks with slack for aligned reads, rounded up to whole huge pages.
            " bytes required, 2149580800 bytes of them for staging, ".to_owned(),
            " bytes free of 1073741824 bytes total, limited by ".to_owned() + name,
        ] {
            assert!(message.contains(&part), "{part}: {message}");
        }
        assert_eq!(failed["retriable"], false, "the limit is smaller than the required memory");
    }
}

/// Tests one header with a long text, and one with many keys. A key takes many times its bytes in the file.
#[test]
fn headers_that_do_not_fit_are_refused() {
    if !Kind::GroupMemory.works() {
        say("limits: memory of control groups cannot be limited here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut text = phi3_keys();
    text.kv("tokenizer.chat_template", "x".repeat(12 << 20));
    let mut keys = phi3_keys();
    for i in 0..100_000 {
        keys.kv(format!("key.{i}"), i);
    }
    for (number, mut writer) in [text, keys].into_iter().enumerate() {
        for (name, dims, ggml_type) in TENSORS {
            writer.tensor(name, dims, ggml_type);
        }
        let path = dir.path().join(format!("{number}.gguf"));
        fs::write(&path, writer.to_bytes(|_, data| data.fill(0x2c)).unwrap()).unwrap();
        for limit in [6 * MIB, 12 * MIB, 24 * MIB, 1 << 30] {
            for command in [&["inspect"][..], &["plan", "--json"], &["load", "--device=host"]] {
                let arguments = [command, &[path.to_str().unwrap()]].concat();
                let limited = Limited { kind: Kind::GroupMemory, limit, user: 0 };
                let output = limited.run(&arguments);
                let stderr = String::from_utf8(output.stderr).unwrap();
                let code = output.status.code();
                let expected = if limit < 24 * MIB { Some(6) } else { Some(0) };
                assert!(
                    code == expected || limit == 24 * MIB && code == Some(6),
                    "{code:?} {stderr}"
                );
                let names_limit = stderr.contains("limited by the memory cgroup");
                assert_eq!(names_limit, code == Some(6), "{stderr}");
            }
        }
    }
}

/// A memory cgroup counts files that are kept in memory. Without the check the kernel would kill the process.
#[test]
fn a_file_that_does_not_fit_into_memory_is_refused() {
    const IN_MEMORY: &str = "/dev/shm";
    if !Kind::GroupMemory.works() || !Path::new(IN_MEMORY).is_dir() {
        say("limits: files in memory cannot be limited here");
        return;
    }
    let dir = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let (model, out) = (dir.path().join("model.gguf"), dir.path().join("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let run = |limit, arguments: &[&str]| {
        let output = Limited { kind: Kind::GroupMemory, limit, user: 0 }.run(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let files = || fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(run(64 * MIB, &["synth", model]).0, Some(0));
    // A file of 7.6 GB. The load below needs 560 MB of weights and a file of the same size.
    let (code, stderr) = run(1 << 30, &["synth", out, "--preset=mini-4k", "--type=f16"]);
    assert_eq!((code, files()), (Some(6), 1), "{stderr}");
    assert!(stderr.contains(out) && stderr.contains("limited by the memory cgroup"), "{stderr}");
    let on_disk = tempfile::tempdir().unwrap();
    let large = on_disk.path().join("large.gguf");
    write_large_model(&large);
    let load = ["load", large.to_str().unwrap(), "--device=host", "--dump", out];
    let (code, stderr) = run(1 << 30, &load);
    assert_eq!((code, files()), (Some(6), 1), "{stderr}");
    assert!(stderr.contains(out) && stderr.contains("limited by the memory cgroup"), "{stderr}");
}

/// Runs `bench` under each of these limits, which end it at different steps. Returns the messages of the failed
/// runs.
fn messages_of_bench(kind: Kind, limits: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    if !kind.works() {
        say(&format!("limits: {kind:?} cannot be limited here"));
        return Vec::new();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
    // The program runs as another user, and must be able to enter the folder.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let small = ["--threads=1", "--depth=1", "--chunk=4096", "--read-size=4096"];
    let bench = [&["bench", path.to_str().unwrap(), "--device=host"], &small[..]].concat();
    let run = |limit| {
        let output = Limited { kind, limit, user: 100 }.run(&bench);
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code() == Some(6)).then_some((limit, stderr))
    };
    let messages: Vec<_> = limits.into_iter().filter_map(run).collect();
    assert!(!messages.is_empty(), "{kind:?}");
    messages
}

#[test]
fn the_message_for_readers_without_memory_contains_figures() {
    for (kind, name) in [(Kind::Data, "RLIMIT_DATA"), (Kind::GroupMemory, "the memory cgroup")] {
        let messages = messages_of_bench(kind, (2..16).map(|step| step * 4 * MIB));
        let mut readers = messages.iter().filter(|(_, text)| text.contains("reading to measure: "));
        for (limit, text) in readers.clone() {
            assert!(text.contains(" bytes required, "), "{text}");
            let end = format!(" bytes free of {limit} bytes total, limited by {name}\n");
            assert!(text.contains(&end), "{text}");
        }
        assert!(messages.is_empty() || readers.next().is_some(), "{messages:?}");
        assert!(
            messages.iter().all(|(_, text)| !text.contains("cannot be started: out of memory"))
        );
    }
}

#[test]
fn the_message_for_a_refused_thread_or_process_contains_the_limit() {
    for (kind, name) in
        [(Kind::Processes, "RLIMIT_NPROC"), (Kind::GroupProcesses, "the pids cgroup")]
    {
        let messages = messages_of_bench(kind, 1..12);
        let mut refused = messages.iter().filter(|(_, text)| text.contains(" cannot be started: "));
        for (limit, text) in refused.clone() {
            assert!(text.contains(" bytes total, limited by "), "{text}");
            let count = format!("; processes and threads are limited to {limit} by {name}\n");
            assert!(text.contains(&count), "{text}");
        }
        assert!(messages.is_empty() || refused.next().is_some(), "{messages:?}");
    }
}

/// The kind of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Processes and threads of the user (`RLIMIT_NPROC`).
    Processes,
    /// Processes and threads of a cgroup.
    GroupProcesses,
    AddressSpace,
    Data,
    /// Memory of a cgroup.
    GroupMemory,
}

const KINDS: [Kind; 5] =
    [Kind::Processes, Kind::GroupProcesses, Kind::AddressSpace, Kind::Data, Kind::GroupMemory];

impl Kind {
    /// Returns whether limits of this kind can be set here and have an effect. The shadow memory of a sanitizer
    /// exceeds all memory limits.
    fn works(self) -> bool {
        let (too_little, enough) = match self {
            Self::Processes | Self::GroupProcesses => (1, 64),
            _ if is_sanitized() => return false,
            Self::AddressSpace | Self::Data | Self::GroupMemory => (8 * MIB, 1 << 30),
        };
        let succeeds = |limit, line: &[&str]| {
            let applied = Limited { kind: self, limit, user: 0 }.applied()?;
            let line = applied.line(line.iter().map(OsString::from).collect());
            Some(timed(&line).output().ok()?.status.success())
        };
        // The command starts a second process and uses some memory.
        let hungry = "head -c 30000000 /dev/zero | tail -c 30000000 > /dev/null";
        let hungry = ["sh", "-c", hungry];
        succeeds(too_little, &hungry) == Some(false) && succeeds(enough, &hungry) == Some(true)
    }

    /// Chooses a random limit. Most limits are near the minimum that the program needs.
    fn choose(self, random: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Processes | Self::GroupProcesses => random.u64(1..=16),
            // The program and its libraries need about 12 MiB of addresses and 1 MiB of data. In a cgroup
            // of less than 2 MiB, the kernel kills the program when it reads a file.
            Self::AddressSpace => 11 * MIB + more(random),
            Self::Data => more(random),
            Self::GroupMemory => 2 * MIB + more(random),
        }
    }
}

/// Returns a random number of bytes up to 1 GiB. Each order of magnitude has the same probability.
fn more(random: &mut fastrand::Rng) -> u64 {
    let most = (MIB / 16) << random.u32(0..=14);
    random.u64(0..=most)
}

/// A limit for one run of the program.
#[derive(Clone, Copy, Debug)]
struct Limited {
    kind: Kind,
    limit: u64,
    /// The number of the user who runs the program. Each thread of a test has its own user, because the kernel
    /// counts processes by user.
    user: u32,
}

impl Limited {
    /// Runs the program under the limit. Panics if the limit cannot be set here.
    fn run(&self, arguments: &[&str]) -> Output {
        let line = [PROGRAM].iter().chain(arguments).map(OsString::from).collect();
        timed(&self.applied().unwrap().line(line)).output().unwrap()
    }

    /// Sets up the limit. Returns `None` if a cgroup cannot be created.
    fn applied(&self) -> Option<Applied> {
        let Self { kind, limit, user } = *self;
        let words = |words: &[String]| words.iter().map(OsString::from).collect();
        let (prefix, group) = match kind {
            Kind::Processes => (
                words(&[
                    "setpriv".to_owned(),
                    format!("--reuid={}", 65534 - user),
                    "--clear-groups".to_owned(),
                    "prlimit".to_owned(),
                    format!("--nproc={limit}"),
                ]),
                None,
            ),
            Kind::AddressSpace => (words(&["prlimit".to_owned(), format!("--as={limit}")]), None),
            Kind::Data => (words(&["prlimit".to_owned(), format!("--data={limit}")]), None),
            Kind::GroupProcesses | Kind::GroupMemory => {
                let group = Group::with_limit(kind, limit)?;
                let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
                let path = group.0.to_str()?.to_owned();
                (words(&["sh".to_owned(), "-c".to_owned(), enter.to_owned(), path]), Some(group))
            }
        };
        Some(Applied { prefix, _group: group })
    }
}

/// The words in front of a command that run it under a limit.
struct Applied {
    prefix: Vec<OsString>,
    _group: Option<Group>,
}

impl Applied {
    fn line(&self, command: Vec<OsString>) -> Vec<OsString> {
        self.prefix.iter().cloned().chain(command).collect()
    }
}

/// A cgroup. It is removed on drop.
struct Group(PathBuf);

impl Group {
    fn with_limit(kind: Kind, limit: u64) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("phi3-loader-test-{}-{number}", std::process::id());
        let (controller, files) = match kind {
            Kind::GroupMemory => ("memory", ["memory.limit_in_bytes", "memory.max"]),
            _ => ("pids", ["pids.max"; 2]),
        };
        parents(controller).into_iter().find_map(|parent| {
            // Needed for cgroup version 2. If the controller is refused, the file of the limit does not exist.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            let group = Self(parent.join(&name));
            fs::create_dir(&group.0).ok()?;
            let file = files.iter().map(|file| group.0.join(file)).find(|file| file.exists())?;
            fs::write(file, limit.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The cgroup is empty, because all processes in it have ended.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Returns the cgroups in which a new one may be created: the test's own cgroup and its ancestors.
fn parents(controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mount = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            list if list.split(',').any(|one| one == controller) => {
                format!("/sys/fs/cgroup/{list}")
            }
            _ => continue,
        };
        let own = Path::new(&mount).join(path.trim_start_matches('/'));
        let up_to_mount = own.ancestors().take_while(|parent| parent.starts_with(&mount));
        found.extend(up_to_mount.map(Path::to_owned));
    }
    found
}

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
    passed_over: usize,
    begun: usize,
    wrong: Vec<String>,
}

fn run(wanted: usize, seed: u64) {
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
        "limits: {done} runs of {} commands, {} limits passed over: {:?}",
        TRIALS.len(),
        tally.passed_over,
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
            let passed_over = (0..MOST_PASSED_OVER)
                .take_while(|_| !self.attempt(kind, worker, &mut random))
                .count();
            assert!(passed_over < MOST_PASSED_OVER, "the program does not start: {kind:?}");
            self.tally.lock().unwrap().passed_over += passed_over;
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

/// Prints a line, also if the test passes: the harness captures only the output of the print macros.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
