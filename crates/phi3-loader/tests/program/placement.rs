//! Tests of `plan` for several devices.

use crate::common::model_path;
use crate::program::program;
use gguf_format::GgufFile;
use loader::Storage;
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use model_phi3::{Error, PlacedPlan, Placement, SplitMode};
use serde_json::{Value, json};
use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

/// Runs `plan` on a golden model of 3 layers.
fn plan(arguments: &[&str]) -> Output {
    plan_of("fused-f16.gguf", arguments)
}

fn plan_of(model: &str, arguments: &[&str]) -> Output {
    program(["plan"]).arg(model_path(model)).args(arguments).output().unwrap()
}

fn document(arguments: &[&str]) -> Value {
    document_of("fused-f16.gguf", arguments)
}

#[track_caller]
fn document_of(model: &str, arguments: &[&str]) -> Value {
    let output = plan_of(model, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], exit_code: i32, words: &[&str]) {
    let output = plan(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{message}");
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

fn parts(document: &Value) -> &[Value] {
    document["parts"].as_array().unwrap()
}

/// Returns the devices, and the names of the weights that each of them holds.
fn held(document: &Value) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names = |part: &Value| {
        part["slots"].as_array().unwrap().iter().map(|slot| text(&slot["slot"])).collect()
    };
    parts(document).iter().map(|part| (text(&part["device"]), names(part))).collect()
}

fn holds(slots: &[String], name: &str) -> bool {
    slots.iter().any(|slot| slot == name)
}

#[test]
fn one_device_has_one_part_that_is_the_plan() {
    let document = document(&[]);
    let [part] = parts(&document) else { panic!("one part") };
    assert_eq!((&part["device"], &document["split_mode"]), (&json!("auto"), &json!("none")));
    for field in ["vram_bytes", "source_bytes"] {
        assert_eq!(part[field], document[field], "{field}");
    }
    let slots = |of: &Value| of["slots"].as_array().unwrap().len();
    assert_eq!(slots(part), slots(&document));
    let named = self::document(&["--device", "auto"]);
    assert_eq!(
        (&parts(&named)[0]["device"], slots(&parts(&named)[0])),
        (&json!("auto"), slots(part))
    );
}

#[test]
fn several_devices_are_divided_by_layers_unless_the_user_says_otherwise() {
    let document = document(&["--device", "cuda:1,0,host"]);
    assert_eq!(document["split_mode"], "layer");
    let held = held(&document);
    let devices: Vec<_> = held.iter().map(|(device, _)| device.as_str()).collect();
    assert_eq!(devices, ["cuda:1", "cuda:0", "host"]);
    for (layer, (_, slots)) in held.iter().enumerate() {
        let own = format!("layers.{layer}.");
        assert!(slots.iter().any(|slot| slot.starts_with(&own)), "{slots:?}");
        assert!(slots.iter().all(|slot| slot.starts_with(&own) || !slot.starts_with("layers.")));
    }
    assert!(holds(&held[0].1, "token_embedding") && holds(&held[2].1, "output"));
    let sum: u64 = parts(&document).iter().map(|part| part["vram_bytes"].as_u64().unwrap()).sum();
    assert_eq!(document["vram_bytes"], sum);
}

#[test]
fn a_tensor_split_gives_each_device_its_rows_and_columns() {
    // 2 heads of 64 elements each, and 128 rows in the feed-forward network.
    let model = "one-and-two-bits.gguf";
    let document = document_of(model, &["--device", "host,host", "--split-mode", "tensor"]);
    let slot = |device: usize, name: &str| {
        let slots = parts(&document)[device]["slots"].as_array().unwrap();
        slots.iter().find(|slot| slot["slot"] == name).unwrap().clone()
    };
    for device in 0..2 {
        let q = slot(device, "layers.0.attn_q");
        assert_eq!((&q["first_row"], &q["rows"]), (&json!(64 * device), &json!(64)));
        let heads = json!({
            "first_head": device, "heads": 1, "first_kv_head": device, "kv_heads": 1
        });
        assert_eq!(q["heads"], heads);
        let down = slot(device, "layers.0.ffn_down");
        assert_eq!((&down["first_col"], &down["cols"]), (&json!(64 * device), &json!(64)));
    }
    assert_eq!(document["source_bytes"], document_of(model, &[])["source_bytes"]);
}

#[test]
fn the_last_layers_are_on_the_gpus_and_the_rest_on_the_host() {
    for arguments in [&["--n-gpu-layers", "1"][..], &["--n-gpu-layers=1", "--device=host,cuda:0"]] {
        let document = document(arguments);
        let held = held(&document);
        let [(first, host), (second, gpu)] = &held[..] else { panic!("{held:?}") };
        assert_eq!((first.as_str(), second.as_str()), ("host", "cuda:0"));
        assert!(holds(host, "layers.1.attn_q") && holds(gpu, "layers.2.attn_q"));
        assert!(holds(host, "token_embedding") && holds(gpu, "output"));
    }
}

#[test]
fn memory_that_is_too_small_is_no_error() {
    let whole = document(&[])["vram_bytes"].as_u64().unwrap();
    let memory = |bytes: u64| document(&["--memory", &bytes.to_string(), "--reserve=10B"]);
    let exact = memory(whole + 10);
    assert_eq!((&exact["fits"], &exact["short_by"]), (&json!(true), &json!(0)));
    assert_eq!(parts(&exact)[0]["device"], "cuda:0");
    let small = memory(whole + 3);
    assert_eq!((&small["fits"], &small["short_by"]), (&json!(false), &json!(7)));
    assert_eq!(parts(&small)[0]["short_by"], 7);
    let text = String::from_utf8(plan(&["--memory", "1,1GB"]).stdout).unwrap();
    assert!(text.contains("no: short by ") && text.contains(" stays free "), "{text}");
}

#[test]
fn the_memory_of_the_device_here_is_compared() {
    let document = document(&["--device", "host"]);
    let host = &parts(&document)[0];
    assert_eq!((&host["memory_of"], &document["fits"]), (&json!("host"), &json!(true)));
    let memory = host["memory_bytes"].as_u64().unwrap();
    assert!(memory > document["total_bytes"].as_u64().unwrap());
    let shared = self::document(&["--device", "host,host"]);
    let half = parts(&shared)[1]["memory_bytes"].as_u64().unwrap();
    assert!(half < memory * 3 / 4, "a device that is named twice has half of its memory each time");
    let auto = self::document(&[]);
    let auto = &parts(&auto)[0];
    assert_eq!(auto["device"], "auto");
    assert!(auto["memory_of"].is_string() && auto["memory_bytes"].is_u64(), "{auto}");
    let text = String::from_utf8(plan(&["--device", "host"]).stdout).unwrap();
    assert!(
        text.contains("\nfits      yes: ") && text.contains(" stays free on host with "),
        "{text}"
    );
}

#[test]
fn entries_of_one_device_share_its_memory() {
    let of_batch = |batch: u64, more: &[&str]| {
        let batch = batch.to_string();
        let lanes = ["--device", "host,host", "--context", "1000000", "--batch", &batch];
        document(&[&lanes[..], more].concat())
    };
    // All layers are in the first entry, so that it needs more than half of the memory.
    let uneven = ["--tensor-split", "1,0"];
    let one = of_batch(1, &uneven);
    let memory: u64 = parts(&one).iter().map(|part| part["memory_bytes"].as_u64().unwrap()).sum();
    let batch = memory / 4 * 3 / one["kv_cache"]["bytes"].as_u64().unwrap();
    for more in [&uneven[..], &["--fit"]] {
        let document = of_batch(batch, more);
        assert_eq!(document["total_fits"], true, "{more:?}");
        assert!(parts(&document)[0]["total_bytes"].as_u64().unwrap() > memory / 2);
        assert_eq!(of_batch(2 * batch, more)["total_fits"], false, "{more:?}");
    }
}

#[test]
fn memory_of_a_device_that_is_not_here_is_unknown() {
    let document = document(&["--device", "host,cuda:99"]);
    assert_eq!((&document["fits"], &document["total_fits"]), (&Value::Null, &Value::Null));
    let gpu = &parts(&document)[1];
    assert_eq!((&gpu["memory_bytes"], &gpu["total_short_by"]), (&Value::Null, &Value::Null));
    let text = String::from_utf8(plan(&["--device", "host,cuda:99"]).stdout).unwrap();
    assert!(text.contains("\nfits      unknown: the memory of cuda:99 is not known; "), "{text}");
}

#[test]
fn the_key_value_cache_counts_on_the_devices_of_its_layers() {
    let whole = document(&["--memory=1GB", "--reserve=7B"]);
    let number = |value: &Value| value.as_u64().unwrap();
    let cache = number(&whole["kv_cache"]["bytes"]);
    let weights = number(&whole["vram_bytes"]);
    assert_eq!(parts(&whole)[0]["kv_cache_bytes"], cache);
    assert_eq!(whole["total_bytes"], weights + cache + 7);
    // The model has one layer and two heads.
    let model = "one-and-two-bits.gguf";
    for (mode, shares) in [("layer", [2, 0]), ("tensor", [1, 1]), ("replicate", [2, 2])] {
        let of_model = |arguments: &[&str]| document_of(model, arguments);
        let cache = number(&of_model(&[])["kv_cache"]["bytes"]);
        let two = of_model(&["--memory=1GB,1", "--split-mode", mode, "--reserve=7B"]);
        for (part, share) in parts(&two).iter().zip(shares) {
            let cache = cache / 2 * share;
            assert_eq!(part["kv_cache_bytes"], cache, "{mode}");
            assert_eq!(part["total_bytes"], number(&part["vram_bytes"]) + cache + 7);
        }
        assert_eq!(parts(&two)[0]["total_short_by"], 0);
        let short = number(&parts(&two)[1]["total_bytes"]) - 1;
        assert_eq!((&two["total_fits"], &two["total_short_by"]), (&json!(false), &json!(short)));
        let sum: u64 = parts(&two).iter().map(|part| number(&part["total_bytes"])).sum();
        assert_eq!(two["total_bytes"], sum);
    }

    let memory = |bytes: u64| {
        let memory = bytes.to_string();
        let document = document(&["--memory", &memory, "--reserve=7B"]);
        let text = plan(&["--memory", &memory, "--reserve=7B", "--summary"]);
        (document, String::from_utf8(text.stdout).unwrap())
    };
    let (enough, text) = memory(weights + cache + 7);
    assert_eq!((&enough["total_fits"], &enough["fits"]), (&json!(true), &json!(true)));
    assert!(text.contains("\nfits      yes: 0 bytes stays free on cuda:0 with "), "{text}");
    let (short, text) = memory(weights + cache + 4);
    assert_eq!((&short["total_short_by"], &short["fits"]), (&json!(3), &json!(true)));
    assert!(text.contains("\nfits      no: short by 3 bytes on cuda:0 with "), "{text}");
    assert!(text.contains("; without the KV cache it fits\n"), "{text}");
    let (weights_short, text) = memory(weights);
    assert_eq!(weights_short["fits"], false);
    assert!(!text.contains("without the KV cache"), "{text}");
}

#[test]
fn a_summary_has_no_list_of_weights() {
    let text = |arguments: &[&str]| String::from_utf8(plan(arguments).stdout).unwrap();
    let (summary, whole) = (text(&["--memory=1GB,1GB", "--summary"]), text(&["--memory=1GB,1GB"]));
    assert!(whole.starts_with(&summary) && whole.contains("layers.0.attn_q "), "{whole}");
    assert!(summary.contains("\nfits      yes") && !summary.contains("attn_q"), "{summary}");
    refused(&["--summary", "--json"], 2, &["cannot be used with"]);
}

#[test]
fn fit_chooses_by_the_memory_of_the_devices() {
    let whole = document(&[])["vram_bytes"].as_u64().unwrap();
    let one = document(&["--fit", "--memory", &format!("10,{whole}")]);
    assert_eq!((&one["split_mode"], &one["fits"]), (&json!("none"), &json!(true)));
    assert_eq!(parts(&one)[0]["device"], "cuda:1");
    let half = (whole * 3 / 4).to_string();
    let two = document(&["--fit", "--memory", &format!("{half},{half}")]);
    assert_eq!((&two["split_mode"], &two["fits"]), (&json!("layer"), &json!(true)));
    let host = document(&["--fit", "--device", "host"]);
    assert_eq!((&host["fits"], &parts(&host)[0]["device"]), (&json!(true), &json!("host")));
    assert!(parts(&host)[0]["memory_bytes"].as_u64().unwrap() > whole);
}

#[test]
fn an_impossible_division_is_refused_with_its_code() {
    refused(
        &["--device", "host,host,host", "--split-mode", "tensor"],
        4,
        &["error[PHI3_PLACEMENT]", "cannot be divided among 3 devices", "help: "],
    );
}

#[test]
fn wrong_use_has_exit_code_2() {
    refused(&["--device", "host,host", "--split-mode", "none"], 2, &["one device, not 2"]);
    refused(&["--device", "host,host", "--tensor-split", "1,1,1"], 2, &["3 proportions"]);
    refused(&["--device", "host,host", "--tensor-split", "1,-1"], 2, &["proportions 1,-1"]);
    refused(&["--device", "gpu"], 2, &["is no device"]);
    refused(&["--device", "host", "--memory", "1GB,1GB"], 2, &["2 entries for 1 devices"]);
    refused(&["--n-gpu-layers", "1", "--split-mode", "tensor"], 2, &["divides by layers"]);
    refused(&["--fit", "--split-mode", "layer"], 2, &["cannot be used with"]);
    refused(&["--split-mode", "rows"], 2, &["none, layer, tensor, replicate"]);
}

#[test]
fn all_gpus_need_a_gpu() {
    if loader::cuda_devices().is_ok_and(|gpus| gpus.is_empty()) {
        refused(&["--device", "cuda:all"], 5, &["error[DEVICE_UNAVAILABLE]"]);
    }
}

/// Returns the numbers of devices that the mode `tensor` can divide a model among, as ranges.
fn degrees(preset: Preset, types: TypeMix, storage: Storage) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let layout = Blueprint::new(preset, Layout::Fused, types).writer().layout().unwrap();
    // Instead of weights the file has a hole.
    let sparse = File::create(file.path()).unwrap();
    sparse.set_len(layout.file_len()).unwrap();
    sparse.write_all_at(layout.header(), 0).unwrap();
    let gguf = GgufFile::open(file.path()).unwrap();
    let most = Placement::new(SplitMode::Tensor, 256).unwrap();
    match PlacedPlan::from_gguf(gguf.metadata(), gguf.tensors(), storage, &most) {
        Err(Error::Placement { possible, .. }) => ranges(&possible),
        other => panic!("no model has parts for 256 devices: {other:?}"),
    }
}

/// Formats ascending numbers: `1 to 4, 8`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[usize]| match *run {
        [first, .., last] => format!("{first} to {last}"),
        _ => run[0].to_string(),
    };
    runs.map(text).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_document_has_the_possible_numbers_of_devices() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/placement.md");
    let document = read_to_string(document).unwrap();
    for (models, preset) in [
        ("Phi-3-mini", Preset::Mini4k),
        ("Phi-3-medium", Preset::Medium),
        ("Phi-4", Preset::Phi4),
        ("Phi-4-mini", Preset::Phi4Mini),
    ] {
        let columns = [
            (TypeMix::F16, Storage::F16),
            (TypeMix::Q4_K_M, Storage::F16),
            (TypeMix::Q8_0, Storage::Native),
            (TypeMix::Q4_K_M, Storage::Native),
        ];
        let [f16, decoded, small, large] =
            columns.map(|(types, storage)| degrees(preset, types, storage));
        assert_eq!(f16, decoded, "as f16 the type in the file does not matter");
        let row = format!("| {models} | {f16} | {small} | {large} |");
        assert!(document.lines().any(|line| line == row), "docs/placement.md has no row {row}");
    }
}
