//! Tests of `--dump`: its `__metadata__`, and the layout of a Hugging Face checkpoint.

use crate::common::{model_path, sha256, testdata};
use crate::program::{Ran, program, run};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tempfile::TempDir;

/// Dumps a small model with more options.
fn dump(dir: &TempDir, model: &Path, more: &[&str]) -> Vec<u8> {
    let out = dir.path().join("dump.safetensors");
    let load = ["load", model.to_str().unwrap(), "--quiet", "--dump", out.to_str().unwrap()];
    let ran = run([&load[..], more].concat());
    assert_eq!(ran.code(), 0, "{more:?}: {}", ran.stderr());
    std::fs::read(out).unwrap()
}

fn notes(dump: &[u8]) -> HashMap<String, String> {
    let (_, header) = SafeTensors::read_metadata(dump).unwrap();
    header.metadata().clone().unwrap()
}

/// Returns an entry that is JSON.
fn note(dump: &[u8], name: &str) -> Value {
    serde_json::from_str(&notes(dump)[name]).unwrap()
}

/// What `testdata/make_checkpoints.py` computes with gguf-py, by file name and tensor.
#[derive(serde::Deserialize)]
struct Expected {
    shape: Vec<usize>,
    sha256: String,
}

#[test]
fn a_dump_with_names_of_hugging_face_has_the_tensors_of_the_checkpoint() {
    let path = testdata().join("models/checkpoints.json");
    let checkpoints: BTreeMap<String, BTreeMap<String, Expected>> =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, tensors) in checkpoints {
        let hf = |devices: &str| {
            dump(&dir, &model_path(&name), &["--names=hf", &format!("--device={devices}")])
        };
        let bytes = hf("host");
        let dump = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(dump.len(), tensors.len(), "{name}: {:?}", dump.names());
        for (tensor, expected) in &tensors {
            let view = dump.tensor(tensor).unwrap();
            assert_eq!(view.dtype(), Dtype::F16);
            assert_eq!(view.shape(), expected.shape, "{name}: {tensor}");
            assert_eq!(sha256(view.data()), expected.sha256, "{name}: {tensor}");
        }
        assert!(hf("host,host") == bytes, "{name}: two devices");
    }
}

#[test]
fn the_configuration_of_the_checkpoint_has_the_rope_factors() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str| {
        note(&dump(&dir, &model_path(name), &["--names=hf", "--device=host"]), "config")
    };
    let tied = config("tied-gqa-bf16.gguf");
    let slots = dump(&dir, &model_path("tied-gqa-bf16.gguf"), &["--device=host"]);
    let slots = SafeTensors::deserialize(&slots).unwrap();
    for (field, slot) in
        [("long_factor", "rope_factors_long"), ("short_factor", "rope_factors_short")]
    {
        let bytes = slots.tensor(slot).unwrap().data();
        let factors = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let listed: Vec<f32> = serde_json::from_value(tied["rope_scaling"][field].clone()).unwrap();
        assert!(factors.eq(listed), "{field}");
    }
    assert_eq!(tied["rope_scaling"]["type"], "longrope");
    assert_eq!(tied["rope_scaling"].get("attention_factor"), None);
    assert_eq!(tied["tie_word_embeddings"], true);
    assert_eq!(tied["partial_rotary_factor"], 0.5);
    assert_eq!(tied["head_dim"], 24);
    assert_eq!(tied["num_key_value_heads"], 1);
    // From the context length, transformers would compute 2.
    let long = config("long-context-f16.gguf");
    assert_eq!(long["rope_scaling"]["attention_factor"], 1.25);
    assert_eq!(long["original_max_position_embeddings"], 8);
    let plain = config("fused-f16.gguf");
    assert_eq!(plain["rope_scaling"], Value::Null);
    assert_eq!(plain["model_type"], "phi3");
    assert_eq!(plain["vocab_size"], 37);
    assert_eq!(plain["pad_token_id"], Value::Null);
}

#[test]
fn a_dump_says_where_its_weights_are_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = model_path("split-q8_0.gguf");
    for (names, storage) in [("slots", "f16"), ("slots", "native"), ("hf", "f16")] {
        let more = [format!("--names={names}"), format!("--storage={storage}")];
        let bytes = dump(&dir, &path, &[&more[0], &more[1], "--device=host"]);
        let notes = notes(&bytes);
        let expected = [
            ("format", "pt"),
            ("program", concat!("phi3-loader ", env!("CARGO_PKG_VERSION"))),
            ("source", "split-q8_0.gguf"),
            ("model", "split-q8_0"),
            ("architecture", "llama"),
            ("storage", storage),
            ("names", names),
        ];
        for (key, value) in expected {
            assert_eq!(notes[key], value, "{key}");
        }
        let again = dump(&dir, &path, &[&more[0], &more[1], "--device=host"]);
        assert!(again == bytes, "{names} {storage}");
    }
}

#[test]
fn a_native_dump_has_the_type_and_the_shape_of_each_weight() {
    let dir = tempfile::tempdir().unwrap();
    let native = |name: &str| dump(&dir, &model_path(name), &["--storage=native", "--device=host"]);
    let quantised = native("fused-k-quants.gguf");
    for (slot, ggml_type, shape) in [
        ("layers.0.attn_q", "Q5_K", json!([256, 256])),
        ("layers.0.attn_k", "Q5_K", json!([128, 256])),
        ("layers.0.attn_norm", "F32", json!([256])),
        ("output", "Q6_K", json!([11, 256])),
    ] {
        let form = note(&quantised, slot);
        assert_eq!(form, json!({ "ggml_type": ggml_type, "shape": shape }), "{slot}");
    }
    let scaled = native("nvfp4-scales.gguf");
    for dump in [&quantised, &scaled] {
        let notes = notes(dump);
        let slots = SafeTensors::deserialize(dump).unwrap();
        assert!(slots.names().iter().all(|slot| notes.contains_key(*slot)));
    }
    let scale = json!({ "ggml_type": "F32", "shape": [1] });
    assert_eq!(note(&scaled, "layers.0.attn_q.scale"), scale);
}

#[test]
fn names_of_hugging_face_need_a_dump_and_half_precision() {
    let model = model_path("fused-f16.gguf");
    let load = ["load", model.to_str().unwrap(), "--device=host", "--names=hf"];
    let refused = |ran: &Ran, message: &str| {
        assert_eq!((ran.code(), ran.stdout()), (2, ""), "{}", ran.stderr());
        assert!(ran.stderr().contains(message), "{}", ran.stderr());
    };
    refused(&run(load), "--dump <OUT.safetensors>");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("dump.safetensors");
    let with_dump = [&load[..], &["--dump", out.to_str().unwrap()]].concat();
    let native = "--names hf cannot be used with --storage native";
    refused(&run([&with_dump[..], &["--storage=native"]].concat()), native);
    refused(&Ran::of(program(&with_dump).env("PHI3_LOADER_STORAGE", "native")), native);
    assert!(!out.exists());
}
