//! Tests with a standard output that cannot be written to.

use crate::common::model_path;
use crate::program::{Ran, below_shell, program};
use safetensors::SafeTensors;
use std::fs::File;
use std::io::PipeWriter;
use std::path::Path;
use std::process::Command;

/// Returns one command of each kind that prints.
fn commands() -> Vec<Vec<String>> {
    let model = model_path("fused-f16.gguf").to_str().unwrap().to_owned();
    let to_host = "--device=host".to_owned();
    [
        &["--version"][..],
        &["--help"],
        &["-h"],
        &["help"],
        &["load", "--help"],
        &["completions", "bash"],
        &["man"],
        &["resident", "list", "--help"],
        &["devices"],
        &["devices", "--json"],
        &["inspect", &model],
        &["inspect", &model, "--json"],
        &["plan", &model],
        &["plan", &model, "--json"],
        &["load", &model, &to_host],
        &["load", &model, &to_host, "--json"],
    ]
    .iter()
    .map(|arguments| arguments.iter().map(|&argument| argument.to_owned()).collect())
    .collect()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Returns a pipe whose reading end is closed.
fn pipe_without_reader() -> PipeWriter {
    std::io::pipe().unwrap().1
}

#[track_caller]
fn is_write_error(ran: &Ran, arguments: &[String], why: &str) {
    assert_eq!(ran.code(), 7, "{arguments:?}: {}", ran.stderr());
    let start = format!("error[WRITE_FAILED]: standard output: {why}");
    assert!(ran.stderr().starts_with(&start), "{arguments:?}: {}", ran.stderr());
}

#[test]
fn a_full_standard_output_is_an_io_error() {
    for arguments in commands() {
        let ran = Ran::with_stdout(&mut program(&arguments), full());
        is_write_error(&ran, &arguments, "No space left");
    }
}

#[test]
fn a_closed_standard_output_is_an_io_error() {
    for arguments in commands() {
        let ran = Ran::of(&mut below_shell("exec >&-", &arguments));
        is_write_error(&ran, &arguments, "it is closed");
    }
    let arguments = ["--version".to_owned()];
    for (prelude, why) in
        [("exec <&- >&-", "it is closed"), ("exec 1</dev/null", "Bad file descriptor")]
    {
        is_write_error(&Ran::of(&mut below_shell(prelude, &arguments)), &arguments, why);
    }
    let status = below_shell("exec <&- >&- 2>&-", &arguments).status().unwrap();
    assert_eq!(status.code(), Some(7));
}

#[test]
fn a_file_at_the_size_limit_is_an_io_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = || File::create(dir.path().join("out")).unwrap();
    for arguments in commands() {
        let ran = Ran::with_stdout(&mut below_shell("ulimit -f 0", &arguments), file());
        is_write_error(&ran, &arguments, "File too large");
    }
}

#[test]
fn a_pipe_without_reader_is_not_an_error() {
    for arguments in commands() {
        let ran = Ran::with_stdout(&mut program(&arguments), pipe_without_reader());
        assert_eq!((ran.code(), ran.stderr()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn a_null_device_opened_for_writing_is_not_an_error() {
    for options in [File::options().write(true), File::options().read(true).write(true)] {
        let null = options.open("/dev/null").unwrap();
        let ran = Ran::with_stdout(&mut program(["--version"]), null);
        assert_eq!((ran.code(), ran.stderr()), (0, ""));
    }
}

fn load(file: &Path, more: &[&str]) -> Command {
    let mut load = program(["load", "--device=host", "--json", file.to_str().unwrap()]);
    load.args(more);
    load
}

#[test]
fn a_load_does_not_depend_on_the_reader_of_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent.gguf");
    for ran in [
        Ran::with_stdout(&mut load(&absent, &[]), pipe_without_reader()),
        Ran::with_stdout(&mut load(&absent, &[]), full()),
    ] {
        assert_eq!(ran.code(), 7);
        assert!(ran.stderr().starts_with("error[FILE_NOT_FOUND]"), "{}", ran.stderr());
    }
    let path = model_path("fused-f16.gguf");
    assert_eq!(
        Ran::with_stdout(&mut load(&path, &["--vram-limit=0"]), pipe_without_reader()).code(),
        6
    );

    let complete = |name: &str| {
        let dump = dir.path().join(name);
        let argument = format!("--dump={}", dump.display());
        let written = move || SafeTensors::deserialize(&std::fs::read(&dump).unwrap()).is_ok();
        (argument, written)
    };
    let (dump, written) = complete("without-reader.safetensors");
    let ran = Ran::with_stdout(&mut load(&path, &[&dump]), pipe_without_reader());
    assert_eq!((ran.code(), ran.stderr()), (0, ""));
    assert!(written());
    let (dump, written) = complete("full.safetensors");
    let ran = Ran::with_stdout(&mut load(&path, &[&dump]), full());
    assert_eq!(ran.code(), 7);
    assert!(ran.stderr().contains("standard output"), "{}", ran.stderr());
    assert!(written());
}
