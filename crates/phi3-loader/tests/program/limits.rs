//! Runs all commands under limits. Checks that they end in time with a documented exit code, and that their
//! outputs are complete or absent.

use crate::common::model_path;
use crate::limit_runs::run;
use crate::limited::{Kind, Limited, MIB, say};
use crate::program::PROGRAM;
use crate::small_model::{TENSORS, phi3_keys, write_large_model};
use crate::trial::{Bench, TRIALS};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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
            " GiB), 2149580800 bytes of them for staging (2.00 GiB), ".to_owned(),
            " bytes free of 1073741824 bytes total (".to_owned(),
            " of 1.00 GiB), limited by ".to_owned() + name,
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
        say("limits: the memory of a cgroup cannot be limited here");
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
            for command in [
                &["inspect"][..],
                &["plan", "--json"],
                &["load", "--device=host"],
                &["verify", "--json"],
            ] {
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
            assert!(text.contains(" bytes required"), "{text}");
            let mib = limit / MIB;
            let end = format!(" of {mib}.00 MiB), limited by {name}\n");
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
            assert!(text.contains("), limited by "), "{text}");
            let count = format!("; processes and threads are limited to {limit} by {name}\n");
            assert!(text.contains(&count), "{text}");
        }
        assert!(messages.is_empty() || refused.next().is_some(), "{messages:?}");
    }
}
