//! Tests of commands that a signal cancels.

use crate::common::model_path;
use crate::program::{below_shell, program};
use crate::small_model::write_large_model;
use serde_json::Value;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The name of a signal, and the exit code of a program that it cancels.
const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

/// Sends a signal to the process.
fn send(signal: &str, process: u32) {
    kill("kill -$0 $1", signal, process);
}

/// Runs a shell command. In it, `$0` is the name of a signal and `$1` is the process ID.
fn kill(command: &str, signal: &str, process: u32) {
    let id = process.to_string();
    assert!(Command::new("sh").args(["-c", command, signal, &id]).status().unwrap().success());
}

/// Runs a load with `command`. When the memory is allocated, calls `send` with the process ID. Returns the last
/// event and the exit code.
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

/// Returns a load that takes several seconds, so that a signal arrives before it ends.
fn long_load(path: &str, devices: &str) -> Command {
    let mut load = program(["load", path, "--device", devices, "--json"]);
    load.args(["--threads", "1", "--chunk", "4096", "--verify", "readback"]);
    load
}

#[test]
fn sigint_and_sigterm_cancel_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    let dump = format!("--dump={}", dir.path().join("dump.safetensors").to_str().unwrap());
    for ((signal, exit_code), devices) in SIGNALS.into_iter().zip(["host", "host,host"]) {
        let mut load = long_load(&path, devices);
        let (last, code) = signalled(load.arg(&dump), |process| send(signal, process));
        assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &"CANCELLED".into()));
        assert_eq!((&last["exit_code"], code), (&exit_code.into(), Some(exit_code)), "{signal}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a file is left");
    }
}

#[test]
fn two_signals_at_the_same_time_count_as_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    // Both signals are pending at the same time, because the process cannot run between them.
    let together = "kill -STOP $1; kill -INT $1; kill -$0 $1; kill -CONT $1";
    let together = |process| kill(together, "TERM", process);
    let (last, code) = signalled(&mut long_load(&path, "host"), together);
    assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &"CANCELLED".into()));
    assert_eq!(&last["exit_code"], code.unwrap());
    assert!(SIGNALS.iter().any(|&(_, of_signal)| code == Some(of_signal)), "{code:?}");
}

#[test]
fn a_load_that_ignores_sighup_continues() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    let load = ["load", &path, "--device=host", "--json", "--threads=1"];
    let mut load = below_shell("trap '' HUP", load);
    let (last, code) = signalled(&mut load, |process| send("HUP", process));
    assert_eq!((&last["event"], code), (&"finished".into(), Some(0)));
}

/// Checks that the program reports its cancellation and ends with this exit code.
#[track_caller]
fn is_cancelled_by(program: Child, exit_code: i32) {
    let output = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    assert_eq!(stderr, "error[CANCELLED]: cancelled\n");
}

#[test]
fn a_cancelled_synth_keeps_the_existing_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.gguf");
    std::fs::write(&path, "old content").unwrap();
    for (signal, exit_code) in SIGNALS {
        let arguments = ["synth", path.to_str().unwrap(), "--preset", "mini-4k", "--force"];
        let mut synth = program(arguments);
        let synth = synth.stderr(Stdio::piped()).spawn().unwrap();
        // Wait until the program has opened its output file: its handlers are then installed. It needs
        // seconds to fill the file.
        let descriptors = format!("/proc/{}/fd", synth.id());
        let is_open = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_link(entry.unwrap().path()).is_ok_and(|to| to.starts_with(dir.path()))
        };
        while !std::fs::read_dir(&descriptors).unwrap().any(is_open) {
            std::thread::yield_now();
        }
        send(signal, synth.id());
        is_cancelled_by(synth, exit_code);
        assert_eq!(std::fs::read(&path).unwrap(), b"old content");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_verification_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    for (signal, exit_code) in SIGNALS {
        let mut verify = program(["verify", &path, "--json"]);
        let verify = verify.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Its handlers are installed when it reads data, and the rest of the file takes much longer than a signal.
        let has_read = || {
            let counters = std::fs::read_to_string(format!("/proc/{}/io", verify.id())).unwrap();
            let read = counters.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
            read.parse::<u64>().unwrap() > 8 << 20
        };
        while !has_read() {
            std::thread::yield_now();
        }
        send(signal, verify.id());
        is_cancelled_by(verify, exit_code);
    }
}

/// Starts a command that reads a model. Its standard output accepts one page and then blocks. Waits until the
/// command has written that page: its handlers are then installed, and it is blocked in a write.
fn blocked_in_a_write(command: &str, more: &[&str]) -> (Child, PipeReader) {
    // The default capacity of a pipe on Linux, and the unit in which it is filled.
    const CAPACITY: usize = 64 << 10;
    const PAGE: usize = 4096;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; CAPACITY - PAGE]).unwrap();
    // This path has nearly the maximum length. The first line contains it and is thus longer than a page.
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
fn a_signal_ends_a_command_whose_output_is_not_read() {
    for (signal, exit_code) in SIGNALS {
        for command in ["inspect", "plan"] {
            let (child, _unread) = blocked_in_a_write(command, &[]);
            send(signal, child.id());
            is_cancelled_by(child, exit_code);
        }
    }
}

#[test]
fn a_second_signal_ends_a_load_that_is_blocked_in_a_write() {
    for (signal, exit_code) in SIGNALS {
        let (mut child, _unread) = blocked_in_a_write("load", &["--device=host"]);
        // Signals within 500 ms after the first one have no effect.
        let mut sends = 0..100_000;
        while child.try_wait().unwrap().is_none() && sends.next().is_some() {
            send(signal, child.id());
        }
        assert!(sends.start > 1, "the first signal does not end the process");
        // If no signal ended the process, the test must still end.
        let _ = child.kill();
        assert_eq!(child.wait().unwrap().code(), Some(exit_code));
    }
}

/// Waits until a process ends. Returns false if it does not end.
fn ends(process: &str) -> bool {
    // A process that has ended has no command line, even before its parent has reaped it.
    let is_running =
        || std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty());
    (0..100_000).any(|_| {
        std::thread::yield_now();
        !is_running()
    })
}

/// A peer that runs forever, and starts another program that also runs forever. It writes both process IDs to a
/// file.
const ENDLESS_PEER: &str = r#"#!/bin/sh
sleep 1000000 &
echo "$$ $!" > peer.tmp && mv peer.tmp peer.pid
wait
"#;

#[test]
fn a_cancelled_bench_ends_all_processes_that_it_started() {
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
fn a_bench_can_be_cancelled_during_its_loads() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    for (signal, exit_code) in SIGNALS {
        let bench = ["bench", &path, "--device=host", "--repeat=1000", "--verify=readback"];
        let bench = program(bench).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Wait until the first load runs.
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
