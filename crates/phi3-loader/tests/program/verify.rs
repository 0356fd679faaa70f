//! Tests of `verify`.

use crate::changed_weights::{changed, put, with_wild_weights};
use crate::common::{model_path, sha256};
use crate::program::{Ran, program, run};
use gguf_format::write::GgufWriter;
use gguf_format::{GgmlType, Gguf};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn verify(path: &Path, more: &[&str]) -> Ran {
    Ran::of(program(["verify"]).arg(path).args(more))
}

/// Runs `verify --json` and checks the exit code. Returns the document.
#[track_caller]
fn document(path: &Path, code: i32) -> Value {
    let ran = verify(path, &["--json"]);
    assert_eq!(ran.code(), code, "{}", ran.stderr());
    let document = ran.json_lines().remove(0);
    assert_eq!(document["ok"], code == 0);
    match code {
        0 => assert_eq!((&document["error"], ran.stderr()), (&Value::Null, "")),
        _ => assert_eq!(document["error"]["code"], "FILE_DAMAGED"),
    }
    document
}

/// Returns the report on one tensor.
fn tensor<'a>(document: &'a Value, name: &str) -> &'a Value {
    let tensors = document["tensors"].as_array().unwrap();
    tensors.iter().find(|tensor| tensor["name"] == name).unwrap()
}

fn sha256sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

fn models() -> Vec<PathBuf> {
    let names = std::fs::read_dir(model_path("")).unwrap();
    let paths = names.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|name| name == "gguf")).collect()
}

#[test]
fn the_golden_models_are_whole_and_all_digests_are_right() {
    for path in models() {
        let document = document(&path, 0);
        let bytes = std::fs::read(&path).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(document["file_bytes"], bytes.len());
        assert_eq!(document["files"][0]["sha256"], sha256sum(&path));
        for (reported, of) in document["tensors"].as_array().unwrap().iter().zip(gguf.tensors()) {
            let range = of.range().start as usize..of.range().end as usize;
            let want = json!({
                "name": of.name(), "type": of.ggml_type().name(), "shard": 0, "bytes": of.byte_len(),
                "all_zero": false, "zero_bytes": 0, "infinite": 0, "nan": 0, "sha256": sha256(&bytes[range]),
            });
            assert_eq!(*reported, want, "{path:?}");
        }
    }
}

/// No golden model has a tensor of several pieces.
#[test]
fn a_tensor_that_several_threads_read_has_the_right_digest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "other").tensor("a.weight", &[1024, 10_000], GgmlType::I8);
    writer.tensor("b.weight", &[3], GgmlType::F32);
    let mut next = (0..89).cycle();
    let bytes = writer.to_bytes(|_, data| data.fill_with(|| next.next().unwrap())).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let document = document(&path, 0);
    assert_eq!(document["files"][0]["sha256"], sha256(&bytes));
    for of in Gguf::parse(&bytes).unwrap().tensors() {
        let range = of.range().start as usize..of.range().end as usize;
        assert_eq!(tensor(&document, of.name())["sha256"], sha256(&bytes[range]));
    }
}

#[test]
fn a_published_digest_is_compared() {
    let path = model_path("fused-f16.gguf");
    let digest = sha256sum(&path);
    for given in [digest.clone(), digest.to_uppercase()] {
        let ran = verify(&path, &["--sha256", &given]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(ran.stdout().contains(&digest) && ran.stdout().contains("the file is whole"));
    }
    let dir = tempfile::tempdir().unwrap();
    // One bit differs, which no other check can see.
    let path = changed(dir.path(), "fused-f16.gguf", &["output.weight"], |_, _, bytes| {
        bytes[7] ^= 1;
    });
    document(&path, 0);
    let ran = verify(&path, &["--sha256", &digest]);
    assert_eq!(ran.code(), 9);
    let text = format!("is {}, not {digest}\nhelp: fetch the file again", sha256sum(&path));
    assert!(ran.stderr().contains("error[FILE_DAMAGED]"), "{}", ran.stderr());
    assert!(ran.stderr().contains(&text), "{}", ran.stderr());
    for wrong in ["", "12", &digest[1..], &format!("{digest}0"), &digest.replace(&digest[..1], "g")]
    {
        assert_eq!(verify(&path, &["--sha256", wrong]).code(), 2, "{wrong}");
    }
}

/// The space of the file is reserved, but the download has not written all of it.
#[test]
fn holes_are_found_and_a_bias_may_be_zero() {
    let dir = tempfile::tempdir().unwrap();
    let path =
        changed(dir.path(), "fused-k-quants.gguf", &["output_norm.weight"], |_, _, bytes| {
            bytes.fill(0);
        });
    let found = document(&path, 9);
    assert_eq!(tensor(&found, "output_norm.weight")["all_zero"], true);
    let text = found["problems"][0].as_str().unwrap();
    assert!(text.starts_with("output_norm.weight is all zero"), "{text}");
    assert_eq!(found["problems"].as_array().unwrap().len(), 1);

    let mut writer = GgufWriter::new();
    writer.tensor("a.bias", &[8], GgmlType::F32).tensor("empty.weight", &[0], GgmlType::F32);
    std::fs::write(&path, writer.to_bytes(|_, _| ()).unwrap()).unwrap();
    let found = document(&path, 0);
    assert_eq!(tensor(&found, "a.bias")["all_zero"], true);
    assert_eq!(tensor(&found, "empty.weight")["all_zero"], false);
}

#[test]
fn zeros_in_a_part_of_a_tensor_are_only_a_warning_because_models_can_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = GgufWriter::new();
    writer.tensor("a.weight", &[20_000], GgmlType::I8).tensor("b.weight", &[5000], GgmlType::I8);
    let bytes = writer.to_bytes(|index, data| {
        data.fill(1);
        // Two whole parts of `a`. The last part of `b` is shorter than 4 KiB.
        data[if index == 0 { 4000..13_000 } else { 4096..5000 }].fill(0);
    });
    std::fs::write(&path, bytes.unwrap()).unwrap();
    let found = document(&path, 0);
    assert_eq!(tensor(&found, "a.weight")["zero_bytes"], 2 * 4096);
    let warnings = found["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["code"], "ZERO_PART");
    assert_eq!(warnings[0]["message"], "a.weight has 8192 zero bytes in parts of 4 KiB, of 20000");
    let ran = verify(&path, &[]);
    assert!(ran.stdout().contains("result    the file may be incomplete"), "{}", ran.stdout());
    let digest = format!("sha256:{}", sha256sum(&path));
    assert!(verify(&path, &["--sha256", &digest]).stdout().contains("the file is whole"));
}

#[test]
fn infinities_and_nans_are_found_in_values_and_in_scales() {
    let dir = tempfile::tempdir().unwrap();
    let found = document(&with_wild_weights(dir.path()), 9);
    let counts = |found: &Value, name| {
        let tensor = tensor(found, name);
        (tensor["infinite"].as_u64().unwrap(), tensor["nan"].as_u64().unwrap())
    };
    // Values that are too large only for f16 are all right.
    assert_eq!(counts(&found, "blk.1.ffn_down.weight"), (0, 1));
    assert_eq!(counts(&found, "token_embd.weight"), (1, 0));
    let norm = "output_norm.weight";
    let path = changed(dir.path(), "fused-f16.gguf", &[norm], |_, _, bytes| {
        put(bytes, &[f32::NEG_INFINITY, f32::NAN, f32::NAN]);
    });
    assert_eq!(counts(&document(&path, 9), norm), (1, 2));

    let down = "blk.0.ffn_down.weight";
    for (scale, values, want) in [
        (0x7e00_u16, [1_u8; 32], Some((0, 32))),
        // Infinity times 0 is NaN.
        (0x7c00, [[0; 16], [1; 16]].concat().try_into().unwrap(), Some((16, 16))),
        // The largest scale: the values are finite, but too large for f16.
        (0x7bff, [100; 32], None),
    ] {
        let path = changed(dir.path(), "split-q8_0.gguf", &[down], |_, ggml_type, bytes| {
            assert_eq!(ggml_type, GgmlType::Q8_0);
            bytes[..2].copy_from_slice(&scale.to_le_bytes());
            bytes[2..34].copy_from_slice(&values);
        });
        let found = document(&path, if want.is_some() { 9 } else { 0 });
        assert_eq!(counts(&found, down), want.unwrap_or_default());
    }
}

#[test]
fn malformed_and_truncated_files_are_refused_as_by_other_commands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let bytes = std::fs::read(model_path("fused-f16.gguf")).unwrap();
    for (bytes, code) in [(&bytes[..bytes.len() - 1000], 3), (b"no model", 3), (&bytes[..100], 3)] {
        std::fs::write(&path, bytes).unwrap();
        let ran = verify(&path, &["--json"]);
        assert_eq!((ran.code(), ran.stdout()), (code, ""), "{}", ran.stderr());
    }
    assert_eq!(run(["verify", "/no/such/file"]).code(), 7);
}

#[test]
fn only_the_given_shard_is_compared_and_all_shards_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |no| dir.path().join(format!("m-0000{no}-of-00002.gguf"));
    for no in 1..=2_u16 {
        let mut writer = GgufWriter::new();
        writer.split(no - 1, 2, 2).tensor(format!("t{no}.weight"), &[64], GgmlType::F32);
        let fill = if no == 1 { 0x3c } else { 0xff };
        std::fs::write(path(no), writer.to_bytes(|_, data| data.fill(fill)).unwrap()).unwrap();
    }
    let found = document(&path(1), 9);
    assert_eq!(tensor(&found, "t2.weight")["nan"], 64);
    for no in 1..=2 {
        let digest = sha256sum(&path(no));
        assert_eq!(found["files"][usize::from(no) - 1]["sha256"], digest);
        let ran = verify(&path(no), &["--sha256", &digest]);
        assert!(!ran.stderr().contains("sha256"), "{}", ran.stderr());
        assert_eq!(ran.stdout().matches("sha256 ").count(), 1, "{}", ran.stdout());
        let ran = verify(&path(3 - no), &["--sha256", &digest]);
        assert!(ran.stderr().contains(&format!("not {digest}")), "{}", ran.stderr());
    }
}
