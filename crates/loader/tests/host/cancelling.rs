//! Loads that somebody else ends.

use crate::common::{go_on, model_path};
use crate::observing::name;
use crate::program::{below_shell, program};
use crate::small_model::write_large_model;
use loader::{CancelToken, DeviceChoice, Error, LoadEvent, LoadOptions, Loader, Verify};
use serde_json::Value;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host)
}

/// What a load must do that is cancelled, after which its loader must go on.
#[track_caller]
fn is_cancelled(error: &Error) {
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!((error.code(), error.exit_code()), ("CANCELLED", 130));
    assert!(error.retriable());
}

#[test]
fn a_token_that_is_cancelled_already_ends_a_load_before_it_begins() {
    let token = CancelToken::new();
    token.clone().cancel();
    let mut loader = Loader::new(options());
    let mut heard = 0;
    let mut count = |_: &LoadEvent<'_>| {
        heard += 1;
        ControlFlow::Continue(())
    };
    for path in ["fused-f16.gguf", "absent.gguf"] {
        is_cancelled(&loader.load_cancellable(model_path(path), &mut count, &token).unwrap_err());
    }
    assert_eq!(heard, 0);
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

#[test]
fn another_thread_can_cancel_at_every_event() {
    let mut loader = Loader::new(options());
    for at in ["opened", "planned", "allocated", "progress", "transferred", "verified", "finished"]
    {
        let token = CancelToken::new();
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answered) = mpsc::channel();
        let mut last = "";
        let error = std::thread::scope(|scope| {
            let token = &token;
            scope.spawn(move || {
                asked.recv().unwrap();
                token.cancel();
                answer.send(()).unwrap();
            });
            loader
                .load_cancellable(
                    model_path("fused-f16.gguf"),
                    &mut |event: &LoadEvent<'_>| {
                        last = name(event);
                        if last == at {
                            ask.send(()).unwrap();
                            answered.recv().unwrap();
                        }
                        ControlFlow::Continue(())
                    },
                    token,
                )
                .unwrap_err()
        });
        is_cancelled(&error);
        assert_eq!(last, at, "no event follows the cancellation");
        loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    }
}

#[test]
fn a_load_is_cancelled_or_complete_at_every_moment() {
    let mut loader = Loader::new(options().verify(Verify::Readback));
    let start = Instant::now();
    loader.load(model_path("fused-k-quants.gguf"), &mut go_on).unwrap();
    let whole = start.elapsed();
    let mut cancelled = 0;
    for moment in 0..60 {
        let token = CancelToken::new();
        let (started, start) = mpsc::channel();
        let result = std::thread::scope(|scope| {
            let token = &token;
            scope.spawn(move || {
                let start: Instant = start.recv().unwrap();
                while start.elapsed() < whole * moment / 60 {
                    std::hint::spin_loop();
                }
                token.cancel();
            });
            started.send(Instant::now()).unwrap();
            loader.load_cancellable(model_path("fused-k-quants.gguf"), &mut go_on, token)
        });
        match result {
            Ok(model) => assert_eq!(model.verify_residency().unwrap(), model.stats().residency),
            Err(error) => {
                is_cancelled(&error);
                cancelled += 1;
            }
        }
    }
    assert!(cancelled > 0);
    loader.load(model_path("fused-k-quants.gguf"), &mut go_on).unwrap();
}

/// The bound that the loader promises.
const PROMISED: Duration = Duration::from_millis(100);

/// Tries, of which the best counts: other tests want the same cores.
const TRIES: u32 = 8;

/// Seconds from the cancellation to the return of a load that is cancelled `after` the event for
/// which `begins` says so; the shortest of several tries, and no longer than it takes to keep the
/// promise.
fn time_to_return(
    loader: &mut Loader,
    path: &Path,
    after: Duration,
    begins: impl Fn(&LoadEvent<'_>) -> bool,
) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let token = CancelToken::new();
        let (begun, begin) = mpsc::channel();
        let (result, returned, cancelled) = std::thread::scope(|scope| {
            let token = &token;
            let canceller = scope.spawn(move || {
                begin.recv().unwrap();
                std::thread::sleep(after);
                let cancelled = Instant::now();
                token.cancel();
                cancelled
            });
            let result = loader.load_cancellable(
                path,
                &mut |event: &LoadEvent<'_>| {
                    if begins(event) {
                        // Only the first is waited for.
                        let _ = begun.send(());
                    }
                    ControlFlow::Continue(())
                },
                token,
            );
            let returned = Instant::now();
            drop(begun);
            (result, returned, canceller.join().unwrap())
        });
        is_cancelled(&result.map(drop).unwrap_err());
        best = best.min(returned.saturating_duration_since(cancelled));
        if best < PROMISED {
            break;
        }
    }
    best
}

#[test]
fn a_load_that_is_under_way_returns_within_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    let mut loader = Loader::new(options().threads(2).chunk_bytes(1 << 20));
    let moving = |event: &LoadEvent<'_>| matches!(event, LoadEvent::Transferred { bytes, of_bytes, .. } if 0 < *bytes && bytes < of_bytes);
    let best = time_to_return(&mut loader, &path, Duration::ZERO, moving);
    assert!(best < PROMISED, "{best:?}");
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

#[test]
fn a_comparison_that_is_under_way_returns_within_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    let mut loader = Loader::new(options().verify(Verify::Readback));
    let moved =
        |event: &LoadEvent<'_>| matches!(event, LoadEvent::Progress { unit, of, .. } if unit == of);
    let best = time_to_return(&mut loader, &path, Duration::from_millis(20), moved);
    assert!(best < PROMISED, "{best:?}");
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

/// A signal by its name, and the exit code of a program that it cancels.
const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

/// Sends the process a signal by its name.
fn send(signal: &str, process: u32) {
    kill("kill -$0 $1", signal, process);
}

/// Runs a shell command in which `$0` is the name of a signal and `$1` the number of a process.
fn kill(command: &str, signal: &str, process: u32) {
    let id = process.to_string();
    assert!(Command::new("sh").args(["-c", command, signal, &id]).status().unwrap().success());
}

/// Loads as `command` says, calls `send` with the process when the memory is allocated, and returns the
/// last event and the exit code.
fn signalled(command: &mut Command, send: impl Fn(u32)) -> (Value, Option<i32>) {
    let mut program = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut last = Value::Null;
    for line in BufReader::new(program.stdout.take().unwrap()).lines() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        if last["event"] == "allocated" {
            send(program.id());
        }
    }
    (last, program.wait().unwrap().code())
}

fn large_model(dir: &TempDir) -> String {
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    path.to_str().unwrap().to_owned()
}

/// A load of the model that takes seconds, so that a signal comes while it is under way.
fn long_load(path: &str) -> Command {
    let mut load = program(["load", path, "--device", "host", "--json"]);
    load.args(["--threads", "1", "--chunk", "4096", "--verify", "readback"]);
    load
}

#[test]
fn an_interrupt_and_a_termination_cancel_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    for (signal, exit_code) in SIGNALS {
        let (last, code) = signalled(&mut long_load(&path), |process| send(signal, process));
        assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &"CANCELLED".into()));
        assert_eq!((&last["exit_code"], code), (&exit_code.into(), Some(exit_code)), "{signal}");
    }
}

#[test]
fn signals_that_come_together_are_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    // Both are pending at once: the process cannot run between them.
    let together = "kill -STOP $1; kill -INT $1; kill -$0 $1; kill -CONT $1";
    let together = |process| kill(together, "TERM", process);
    let (last, code) = signalled(&mut long_load(&path), together);
    assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &"CANCELLED".into()));
    assert_eq!(&last["exit_code"], code.unwrap());
    assert!(SIGNALS.iter().any(|&(_, of_signal)| code == Some(of_signal)), "{code:?}");
}

#[test]
fn a_load_that_ignores_hangups_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    let load = ["load", &path, "--device=host", "--json", "--threads=1"];
    let mut load = below_shell("trap '' HUP", load);
    let (last, code) = signalled(&mut load, |process| send("HUP", process));
    assert_eq!((&last["event"], code), (&"finished".into(), Some(0)));
}

/// How the program says that it was cancelled.
#[track_caller]
fn is_cancelled_by(program: Child, exit_code: i32) {
    let output = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    assert_eq!(stderr, "error[CANCELLED]: cancelled\n");
}

#[test]
fn a_cancelled_synthetic_file_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.gguf");
    std::fs::write(&path, "the one before").unwrap();
    for (signal, exit_code) in SIGNALS {
        let mut synth = program(["synth", path.to_str().unwrap(), "--preset", "mini-4k"]);
        let synth = synth.stderr(Stdio::piped()).spawn().unwrap();
        // It has handlers when it has opened a file to write to, and takes seconds to fill it.
        let descriptors = format!("/proc/{}/fd", synth.id());
        let is_open = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_link(entry.unwrap().path()).is_ok_and(|to| to.starts_with(dir.path()))
        };
        while !std::fs::read_dir(&descriptors).unwrap().any(is_open) {
            std::thread::yield_now();
        }
        send(signal, synth.id());
        is_cancelled_by(synth, exit_code);
        assert_eq!(std::fs::read(&path).unwrap(), b"the one before");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

/// Starts a command with a model, whose standard output takes a page and then no more, and waits until
/// it has written that page: then it has handlers, and waits for a reader.
fn waiting_for_a_reader(command: &str, more: &[&str]) -> (Child, PipeReader) {
    // What Linux gives a pipe, and its unit.
    const CAPACITY: usize = 64 << 10;
    const PAGE: usize = 4096;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; CAPACITY - PAGE]).unwrap();
    // Nearly the longest path, which the first line names: it is longer than a page.
    let path = format!("{}fused-f16.gguf", "./".repeat(2000));
    let mut program = program([command, &path, "--json"]);
    program.args(more).current_dir(model_path("")).stdout(writer).stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    while rustix::io::ioctl_fionread(&reader).unwrap() < CAPACITY as u64 {
        std::thread::yield_now();
    }
    (child, reader)
}

#[test]
fn a_command_that_prints_ends_although_nobody_reads() {
    for (signal, exit_code) in SIGNALS {
        for command in ["inspect", "plan"] {
            let (child, _unread) = waiting_for_a_reader(command, &[]);
            send(signal, child.id());
            is_cancelled_by(child, exit_code);
        }
    }
}

#[test]
fn a_second_signal_ends_a_program_that_waits_for_others() {
    for (signal, exit_code) in SIGNALS {
        let (mut child, _unread) = waiting_for_a_reader("load", &["--device=host"]);
        // Those that come within half a second after the first one change nothing.
        let mut sends = 0..100_000;
        while child.try_wait().unwrap().is_none() && sends.next().is_some() {
            send(signal, child.id());
        }
        assert!(sends.start > 1, "the first signal ends what looks at its token");
        // Where none of them did.
        let _ = child.kill();
        assert_eq!(child.wait().unwrap().code(), Some(exit_code));
    }
}

/// Whether a process ends that was just sent a signal to end it.
fn ends(process: &str) -> bool {
    // One that has ended has no command line, also where nobody has collected it yet.
    let goes_on =
        || std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty());
    (0..100_000).any(|_| {
        std::thread::yield_now();
        !goes_on()
    })
}

/// A peer that says who it is and goes on for ever, as does a program that it has started.
const ENDLESS_PEER: &str = r#"#!/bin/sh
sleep 1000000 &
echo "$$ $!" > peer.tmp && mv peer.tmp peer.pid
wait
"#;

#[test]
fn a_cancelled_run_ends_what_it_has_started() {
    for (signal, exit_code) in SIGNALS {
        let dir = tempfile::tempdir().unwrap();
        let peer = dir.path().join("peer");
        std::fs::write(&peer, ENDLESS_PEER).unwrap();
        std::fs::set_permissions(&peer, std::fs::Permissions::from_mode(0o755)).unwrap();
        let model = model_path("fused-f16.gguf");
        let bench = ["bench", model.to_str().unwrap(), "--device=host", "--repeat=1", "--peers"];
        let mut bench = program(bench);
        bench.args(["--llama-bench=./peer", "--svg=chart.svg"]).current_dir(dir.path());
        let bench = bench.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let pids = loop {
            if let Ok(pids) = std::fs::read_to_string(dir.path().join("peer.pid")) {
                break pids;
            }
            std::thread::yield_now();
        };
        send(signal, bench.id());
        is_cancelled_by(bench, exit_code);
        for pid in pids.split_whitespace() {
            assert!(ends(pid), "{pid}");
        }
        assert!(!dir.path().join("chart.svg").exists());
    }
}

#[test]
fn a_run_is_cancelled_while_its_loads_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    for (signal, exit_code) in SIGNALS {
        let bench = ["bench", &path, "--device=host", "--repeat=1000", "--verify=readback"];
        let bench = program(bench).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The first load is under way.
        let children = format!("/proc/{0}/task/{0}/children", bench.id());
        let child = loop {
            let children = std::fs::read_to_string(&children).unwrap();
            if let Some(child) = children.split_whitespace().next() {
                break child.to_owned();
            }
            std::thread::yield_now();
        };
        send(signal, bench.id());
        is_cancelled_by(bench, exit_code);
        assert!(ends(&child), "{child}");
    }
}
