//! Tests with a standard error that cannot be written to: its lines are lost, but not the results.

use crate::common::model_path;
use crate::program::program;
use std::fs::File;
use std::process::Stdio;

#[test]
fn a_failure_whose_message_cannot_be_written_keeps_its_exit_code() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = program(["inspect", "nowhere.gguf"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(7));
}

#[test]
fn a_load_continues_if_the_reader_of_its_log_ends() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("weights.safetensors");
    let model = model_path("fused-f16.gguf");
    let arguments = ["load", model.to_str().unwrap(), "--device=host", "-vv", "--dump"];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status =
        program(arguments).arg(&dump).stdout(Stdio::null()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let bytes = std::fs::read(dump).unwrap();
    safetensors::SafeTensors::deserialize(&bytes).unwrap();
}

#[test]
fn an_empty_rust_log_counts_as_absent() {
    let model = model_path("fused-f16.gguf");
    let log = |rust_log: &str| {
        let arguments = ["load", model.to_str().unwrap(), "--device=host", "-vv"];
        let output = program(arguments).env("RUST_LOG", rust_log).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(log("").contains("DEBUG"));
    assert_eq!(log("off"), "");
}
