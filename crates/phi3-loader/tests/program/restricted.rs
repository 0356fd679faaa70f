//! Loads by processes with one core, without locked memory, or without `/proc`.

use crate::codes::is_sanitized;
use crate::common::model_path;
use crate::environment::without_settings;
use crate::program::{PROGRAM, below_shell, program};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output};

const IO: [&str; 4] = ["auto", "mmap", "read", "direct"];

/// Checks that a `load --json` succeeded, and returns its last event.
fn finished(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let last = str::from_utf8(&output.stdout).unwrap().lines().last().unwrap();
    let event: Value = serde_json::from_str(last).unwrap();
    assert_eq!(event["event"], "finished");
    event
}

fn arguments(io: &str) -> Vec<String> {
    let file = model_path("fused-k-quants.gguf").to_str().unwrap().to_owned();
    let fixed = ["--device=host", "--verify=readback", "--json", "--quiet"].map(str::to_owned);
    ["load".to_owned(), file, format!("--io={io}")].into_iter().chain(fixed).collect()
}

#[test]
fn a_load_needs_only_one_core() {
    for io in IO {
        // A process inherits the set of cores of the thread that starts it. Change it only in a new thread.
        let load = std::thread::spawn(move || {
            let all = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|&core| all.is_set(core)).unwrap();
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            program(arguments(io)).output().unwrap()
        });
        let event = finished(&load.join().unwrap());
        // Direct reads use 16 threads on one core as well, because a thread that waits for storage needs no
        // core.
        let threads = if event["io"] == "direct" { 16 } else { 1 };
        assert_eq!(event["threads"], threads, "{io}");
    }
}

#[test]
fn a_load_needs_no_locked_memory() {
    for io in IO {
        let prelude = "ulimit -l 0 && test \"$(ulimit -l)\" = 0";
        finished(&below_shell(prelude, arguments(io)).output().unwrap());
    }
}

/// A container may have no `/proc`. The free memory is then unknown: it is not reported, and no load is refused
/// because of it.
#[test]
fn a_load_needs_no_proc() {
    let without_proc = |arguments: &[String]| {
        let hidden = "mount -t tmpfs none /proc && exec \"$@\"";
        let mut unshare = Command::new("unshare");
        without_settings(unshare.args(["--mount", "sh", "-c", hidden, "sh"]).args(arguments));
        unshare.output().unwrap()
    };
    // A sanitizer needs `/proc`.
    if is_sanitized() || !without_proc(&["true".to_owned()]).status.success() {
        let _ = writeln!(std::io::stderr(), "/proc cannot be hidden here");
        return;
    }
    for io in IO {
        let line = [vec![PROGRAM.to_owned()], arguments(io)].concat();
        let event = finished(&without_proc(&line));
        for figure in ["free_before_bytes", "free_after_bytes", "total_bytes"] {
            assert_eq!(event["memory"][figure], Value::Null, "{io}");
        }
    }
    let devices = without_proc(&[PROGRAM.to_owned(), "devices".to_owned()]);
    let text = String::from_utf8(devices.stdout).unwrap();
    let host: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(host, ["host", "-", "-", "-", "-", "-", "host", "memory"]);
    let plan = ["plan", arguments("auto")[1].as_str(), "--summary"].map(str::to_owned);
    let plan = without_proc(&[&[PROGRAM.to_owned()][..], &plan].concat());
    let text = String::from_utf8(plan.stdout).unwrap();
    assert!(text.contains("\nfits      unknown: the memory of "), "{text}");
    let limited = [vec![PROGRAM.to_owned()], arguments("auto"), vec!["--vram-limit=1".to_owned()]];
    let output = without_proc(&limited.concat());
    assert_eq!(output.status.code(), Some(6));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("the free memory is unknown"), "{text}");
}
