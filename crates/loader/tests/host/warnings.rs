//! Files that load and may be wrong: what the library and the program say of them.

use crate::common::go_on;
use crate::small_model::{TENSORS, phi3_keys};
use gguf_format::write::GgufWriter;
use loader::{DeviceChoice, LoadEvent, LoadOptions, Loader};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};

/// Writes a model of small values with the keys and tensors of the writer.
fn write(path: &Path, mut writer: GgufWriter) {
    for (name, dims, ggml_type) in TENSORS {
        writer.tensor(name, dims, ggml_type);
    }
    std::fs::write(path, writer.to_bytes(|_, data| data.fill(0x2c)).unwrap()).unwrap();
}

/// A model that lost its RoPE factors.
fn factors_lost() -> GgufWriter {
    let mut writer = phi3_keys();
    writer.kv("phi3.rope.scaling.original_context_length", 512_u32);
    writer
}

fn run(arguments: &[&str], file: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_phi3-loader"))
        .args(arguments)
        .arg(file)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_warning_is_an_event_and_part_of_the_figures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, factors_lost());
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let planned = loader.plan(&path).unwrap().warnings;
    let mut heard = Vec::new();
    let model = loader
        .load(&path, &mut |event: &LoadEvent<'_>| {
            if let LoadEvent::Warned { warning, .. } = event {
                heard.push((*warning).clone());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let [warning] = &planned[..] else { panic!("one warning: {planned:?}") };
    assert_eq!(warning.code(), "PHI3_ROPE_FACTORS_MISSING");
    assert!(!warning.help().is_empty());
    assert_eq!(heard, planned);
    assert_eq!(model.stats().warnings, planned);

    write(&path, phi3_keys());
    assert_eq!(loader.load(&path, &mut go_on).unwrap().stats().warnings, []);
}

#[test]
fn every_command_shows_warnings_as_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, factors_lost());
    let words = ["RoPE factors", "phi3.context_length is 4096", "original_context_length is 512"];
    for arguments in [&["inspect"][..], &["plan"], &["load", "--device=host"]] {
        let text = String::from_utf8(run(arguments, &path).stdout).unwrap();
        assert!(text.contains("\n          help: "), "{text}");
        for word in words.into_iter().chain(["PHI3_ROPE_FACTORS_MISSING"]) {
            assert!(text.contains(word), "{arguments:?}: {word} is not in {text}");
        }
        let json = [arguments, &["--json"]].concat();
        let printed = String::from_utf8(run(&json, &path).stdout).unwrap();
        let lines: Vec<Value> =
            printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let warnings = &lines.last().unwrap()["warnings"];
        assert_eq!(warnings[0]["code"], "PHI3_ROPE_FACTORS_MISSING", "{arguments:?}");
        assert!(warnings[0]["help"].is_string() && warnings[1].is_null());
        let message = warnings[0]["message"].as_str().unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        if arguments[0] == "load" {
            let event = lines.iter().find(|line| line["event"] == "warning").unwrap();
            assert_eq!(event["message"], warnings[0]["message"]);
        }
    }
}

#[test]
fn what_scales_positions_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut linear = phi3_keys();
    linear.kv("phi3.rope.scale_linear", 4.0_f32);
    for (writer, text, scaling, factor, original) in [
        (phi3_keys(), "none, no factors", Value::Null, Value::Null, Value::Null),
        (linear, "linear, factor 4, no factors", "linear".into(), 4.0.into(), Value::Null),
        (
            factors_lost(),
            "none, original context 512, no factors",
            Value::Null,
            Value::Null,
            512.into(),
        ),
    ] {
        write(&path, writer);
        for command in ["inspect", "plan"] {
            let printed = String::from_utf8(run(&[command], &path).stdout).unwrap();
            assert!(printed.contains(&format!("\nscaling   {text}\n")), "{printed}");
            let json = run(&[command, "--json"], &path).stdout;
            let config = &serde_json::from_slice::<Value>(&json).unwrap()["config"];
            assert_eq!(config["rope_scaling"], scaling);
            assert_eq!(config["rope_scaling_factor"], factor);
            assert_eq!(config["rope_original_context"], original);
            assert_eq!(config["rope_factors"], false);
        }
    }
}

#[test]
fn factors_are_a_scaling_that_no_key_names() {
    let path = crate::common::model_path("tied-gqa-bf16.gguf");
    let json = run(&["plan", "--json"], &path).stdout;
    let config = &serde_json::from_slice::<Value>(&json).unwrap()["config"];
    assert_eq!(
        (&config["rope_scaling"], &config["rope_factors"]),
        (&"longrope".into(), &true.into())
    );
    let printed = String::from_utf8(run(&["plan"], &path).stdout).unwrap();
    assert!(printed.contains("\nscaling   longrope, "), "{printed}");
}
