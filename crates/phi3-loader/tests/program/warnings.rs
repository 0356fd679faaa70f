//! Tests of warnings about files that can be loaded.

use crate::program::program;
use crate::small_model::{factors_lost, phi3_keys, write_small_model};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn run(arguments: &[&str], file: &Path) -> Output {
    let output = program(arguments).arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn every_command_shows_warnings_as_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_small_model(&path, factors_lost());
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
fn the_scaling_of_positions_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut linear = phi3_keys();
    linear.kv("phi3.rope.scale_linear", 4.0_f32);
    for (writer, text, scaling, factor, original) in [
        (phi3_keys(), "none", Value::Null, Value::Null, Value::Null),
        (linear, "linear, factor 4", "linear".into(), 4.0.into(), Value::Null),
        (factors_lost(), "none, original context 512", Value::Null, Value::Null, 512.into()),
    ] {
        write_small_model(&path, writer);
        for command in ["inspect", "plan"] {
            let printed = String::from_utf8(run(&[command], &path).stdout).unwrap();
            let text = format!(", scaling {text}, no long and short factors\n");
            assert!(printed.contains("\nrope      ") && printed.contains(&text), "{printed}");
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
fn rope_factors_without_a_scaling_key_are_shown_as_longrope() {
    let path = crate::common::model_path("tied-gqa-bf16.gguf");
    let json = run(&["plan", "--json"], &path).stdout;
    let config = &serde_json::from_slice::<Value>(&json).unwrap()["config"];
    assert_eq!(
        (&config["rope_scaling"], &config["rope_factors"]),
        (&"longrope".into(), &true.into())
    );
    let printed = String::from_utf8(run(&["plan"], &path).stdout).unwrap();
    assert!(printed.contains(", scaling longrope, "), "{printed}");
}
