//! Tests of the report about infinite and NaN weights, and about tensors whose bytes are all zero.

use crate::changed_weights::{changed, put, with_wild_weights};
use crate::common::model_path;
use crate::program::program;
use gguf_format::GgmlType;
use serde_json::{Value, json};
use std::path::Path;

/// Runs `load --json`. Returns its last event and its messages.
fn finished(path: &Path, arguments: &[&str]) -> (Value, String) {
    let output =
        program(["load", "--device=host", "--json"]).args(arguments).arg(path).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let last = str::from_utf8(&output.stdout).unwrap().lines().last().unwrap();
    (serde_json::from_str(last).unwrap(), stderr)
}

#[test]
fn infinite_and_nan_weights_are_counted_for_each_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_wild_weights(dir.path());
    let (event, stderr) = finished(&path, &["--storage=native"]);
    assert_eq!(
        event["non_finite"][1],
        json!({"tensor": "blk.1.ffn_down.weight", "infinite": 0, "nan": 1, "format": "F32"})
    );
    assert!(stderr.contains("1 NaN weights as f32"), "{stderr}");
}

/// Norms and RoPE factors are checked as well, even if they are not converted.
#[test]
fn norms_and_rope_factors_are_counted_in_both_storages() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = ["output_norm.weight", "rope_factors_short.weight"];
    let path = changed(dir.path(), "tied-gqa-bf16.gguf", &tensors, |_, ggml_type, bytes| {
        assert_eq!(ggml_type, GgmlType::F32);
        put(bytes, &[f32::INFINITY, f32::NAN, 1e30]);
    });
    for (storage, norm) in [("f16", (2, 1, "F16")), ("native", (1, 1, "F32"))] {
        let (event, _) = finished(&path, &["--storage", storage]);
        let found = |tensor: &str, (infinite, nan, format): (u64, u64, &str)| json!({"tensor": tensor, "infinite": infinite, "nan": nan, "format": format});
        let want = json!([
            found("rope_factors_short.weight", (1, 1, "F32")),
            found("output_norm.weight", norm),
        ]);
        assert_eq!(event["non_finite"], want, "{storage}");
    }
}

#[test]
fn deny_overflow_can_be_set_by_an_environment_variable() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_wild_weights(dir.path());
    for (value, code) in
        [("1", 9), ("true", 9), ("on", 9), ("0", 0), ("false", 0), ("", 0), ("maybe", 2)]
    {
        let status = program(["load", "--device=host", "--quiet", path.to_str().unwrap()])
            .env("PHI3_LOADER_DENY_OVERFLOW", value)
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), Some(code), "{value:?}");
    }
}

/// A file whose space was reserved but never written contains zeros.
#[test]
fn tensors_whose_bytes_are_all_zero_are_reported_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (norm, down) = ("blk.0.attn_norm.weight", "blk.0.ffn_down.weight");
    let almost = "blk.0.ffn_norm.weight";
    let mut sizes = Vec::new();
    let path =
        changed(dir.path(), "fused-k-quants.gguf", &[norm, almost, down], |name, _, bytes| {
            bytes.fill(0);
            sizes.push(bytes.len());
            if name == almost {
                bytes[bytes.len() - 1] = 0x80;
            }
        });
    for storage in ["f16", "native"] {
        for (io, verify) in [("auto", "readback"), ("mmap", "residency"), ("direct", "checksum")] {
            let io = format!("--io={io}");
            let verify = format!("--verify={verify}");
            let (event, stderr) =
                finished(&path, &["--deny-overflow", "--storage", storage, &io, &verify]);
            let want = json!([
                {"tensor": norm, "bytes": sizes[0]},
                {"tensor": down, "bytes": sizes[2]},
            ]);
            assert_eq!(event["all_zero"], want, "{storage} {io}");
            for tensor in [norm, down] {
                assert!(stderr.contains(&format!("{tensor} is all zero")), "{stderr}");
            }
            assert!(!stderr.contains(almost), "{stderr}");
        }
    }
    let (event, stderr) = finished(&model_path("fused-k-quants.gguf"), &[]);
    assert_eq!((event["all_zero"].clone(), stderr.as_str()), (json!([]), ""));
}

/// All decoded weights are zero although the bytes of their tensor in the file are not.
#[test]
fn a_scale_of_zero_is_reported_in_both_storages() {
    let dir = tempfile::tempdir().unwrap();
    let scale = "blk.0.ffn_down.scale";
    let path = changed(dir.path(), "nvfp4-scales.gguf", &[scale], |_, _, bytes| bytes.fill(0));
    for storage in ["f16", "native"] {
        let (event, stderr) = finished(&path, &["--storage", storage]);
        assert_eq!(event["all_zero"], json!([{"tensor": scale, "bytes": 4}]), "{storage}");
        assert!(stderr.contains(&format!("{scale} is all zero")), "{stderr}");
    }
}

/// `--quiet` suppresses the log but not the report.
#[test]
fn the_report_names_at_most_five_tensors_and_gives_advice() {
    let dir = tempfile::tempdir().unwrap();
    let report = |zeros: &[&str]| {
        let path = changed(dir.path(), "fused-k-quants.gguf", zeros, |_, _, bytes| bytes.fill(0));
        let output =
            program(["load", "--device=host", "--quiet", path.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        String::from_utf8(output.stdout).unwrap()
    };
    let names: Vec<_> = ["attn_norm", "ffn_norm", "attn_qkv", "attn_output", "ffn_up", "ffn_down"]
        .map(|name| format!("blk.0.{name}.weight"))
        .into();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let all = report(&names);
    assert_eq!(all.matches("\nwarning   blk.0.").count(), 5, "{all}");
    assert!(all.contains("\n          and 1 more tensor\n          help: "), "{all}");
    let one = report(&names[..1]);
    assert!(one.contains("\nwarning   blk.0.attn_norm.weight is all zero"), "{one}");
    assert!(one.contains("\n          help: ") && !one.contains(" more tensor"), "{one}");
    assert!(!report(&[]).contains("warning"));
}
