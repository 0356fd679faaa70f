//! Tests of loads to several devices. Each device is host memory, with its own lane and arena.

use crate::common::{expected, model_path};
use crate::program::{Ran, run};
use gguf_format::GgufFile;
use loader::Storage;
use model_phi3::{PlacedPlan, Placement, SplitMode};
use serde_json::{Value, json};
use std::path::Path;

const MODES: [SplitMode; 3] = [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate];

fn hosts(devices: usize) -> String {
    vec!["host"; devices].join(",")
}

fn load(file: &Path, more: &[&str]) -> Ran {
    run([&["load", file.to_str().unwrap()], more].concat())
}

/// Loads a golden model of 3 layers.
fn load_small(more: &[&str]) -> Ran {
    load(&model_path("fused-f16.gguf"), more)
}

/// Returns the last event of a load that succeeds.
#[track_caller]
fn finished(ran: &Ran) -> Value {
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    ran.json_lines().pop().unwrap()
}

fn dump(file: &Path, storage: Storage, more: &[&str]) -> (Ran, Option<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("dump.safetensors");
    let storage = format!("--storage={storage}");
    let dump = format!("--dump={}", out.to_str().unwrap());
    let ran = load(file, &[&["--json", &storage, &dump], more].concat());
    let bytes = std::fs::read(&out).ok();
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, usize::from(bytes.is_some()), "a temporary file is left");
    (ran, bytes)
}

/// Loads a file in every mode to 1 to 4 devices. The dumps are those of one device, or the mode is not possible. Returns
/// the number of possible loads of each mode.
fn divided(file: &Path, storage: Storage) -> [usize; 3] {
    let (ran, whole) = dump(file, storage, &["--device=host"]);
    let one = finished(&ran);
    let gguf = GgufFile::open(file).unwrap();
    MODES.map(|mode| {
        let is_possible = |devices: &usize| {
            let placement = Placement::new(mode, *devices).unwrap();
            let mode = format!("--split-mode={mode}");
            let devices = format!("--device={}", hosts(*devices));
            let (ran, dump) = dump(file, storage, &[&devices, &mode]);
            let (metadata, tensors) = (gguf.metadata(), gguf.tensors());
            let plan = PlacedPlan::from_gguf(metadata, tensors, storage, &placement);
            let context = format!("{} {storage} {devices} {mode}", file.display());
            let Ok((_, plan)) = plan else {
                assert_eq!(ran.code(), 4, "{context}");
                let failed = ran.json_lines().pop().unwrap();
                assert_eq!(failed["code"], "PHI3_PLACEMENT", "{context}: {failed}");
                return false;
            };
            let finished = finished(&ran);
            assert!(dump == whole, "{context}: the dump differs from that of one device");
            assert_eq!(finished["vram_bytes"], plan.device_bytes(), "{context}");
            assert_eq!(finished["source_bytes"], one["source_bytes"], "{context}");
            true
        };
        (1..=4).filter(is_possible).count()
    })
}

#[test]
fn dumps_of_parts_are_those_of_one_device() {
    let mut possible = [0; 3];
    for storage in [Storage::F16, Storage::Native] {
        for name in expected().keys() {
            let counts = divided(&model_path(name), storage);
            // There can be more devices than layers.
            assert_eq!((counts[0], counts[2]), (4, 4), "{name}");
            possible[1] += counts[1];
        }
    }
    assert!(possible[1] > 20, "{possible:?}");
}

#[test]
fn heads_are_divided_unevenly() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    assert_eq!(run(["synth", file.to_str().unwrap(), "--type=q8_0"]).code(), 0);
    for storage in [Storage::F16, Storage::Native] {
        let mode = ["--device=host,host", "--split-mode=tensor"];
        let (ran, whole) = dump(&file, storage, &["--device=host"]);
        finished(&ran);
        let (ran, uneven) = dump(&file, storage, &[&mode[..], &["--tensor-split=3,1"]].concat());
        let finished = finished(&ran);
        assert!(uneven == whole, "{storage}");
        let bytes = |part: usize| finished["parts"][part]["vram_bytes"].as_u64().unwrap();
        assert!(bytes(0) > 2 * bytes(1), "{finished}");
    }
}

#[test]
fn the_last_event_has_the_figures_of_each_device() {
    let finished = finished(&load_small(&["--device=host,host,host", "--json"]));
    assert_eq!(finished["device"], "host,host,host");
    assert_eq!((&finished["split_mode"], &finished["resident"]), (&json!("layer"), &json!("off")));
    let parts = finished["parts"].as_array().unwrap();
    let sum = |field: &str| parts.iter().map(|part| part[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("vram_bytes"), finished["vram_bytes"].as_u64().unwrap());
    assert_eq!(sum("source_bytes"), finished["source_bytes"].as_u64().unwrap());
    for (layer, part) in parts.iter().enumerate() {
        assert_eq!(part["device"], "host");
        let slots = part["slots"].as_array().unwrap();
        let q = slots.iter().find(|slot| slot["slot"] == format!("layers.{layer}.attn_q")).unwrap();
        assert_eq!((&q["first_row"], &q["first_col"]), (&json!(0), &json!(0)));
    }

    let one = load_small(&["--device=host", "--json"]).json_lines().pop().unwrap();
    assert_eq!((&one["device"], &one["split_mode"]), (&json!("host"), &json!("none")));
    assert_eq!(one["parts"].as_array().unwrap().len(), 1);
    let replicas = load_small(&["--device=host,host", "--split-mode=replicate", "--json"]);
    let replicas = replicas.json_lines().pop().unwrap();
    assert_eq!(replicas["source_bytes"], one["source_bytes"]);
    assert_eq!(replicas["vram_bytes"], 2 * one["vram_bytes"].as_u64().unwrap());
}

#[test]
fn every_device_reports_its_allocation() {
    let ran = load_small(&["--device=host,host", "--json"]);
    let events = ran.json_lines();
    let parts = finished(&ran)["parts"].as_array().unwrap().clone();
    let allocated = events.iter().filter(|event| event["event"] == "allocated");
    let bytes: Vec<_> = allocated.map(|event| event["bytes"].clone()).collect();
    assert_eq!(bytes, [parts[0]["vram_bytes"].clone(), parts[1]["vram_bytes"].clone()]);
}

#[test]
fn the_report_has_a_line_for_each_device() {
    for (more, lines) in [
        (
            &["--device=host,host,host,host"][..],
            &["split     layer\n", ": embedding, layer 0 (", ": layer 2 (", ": output ("][..],
        ),
        (&["--device=host,host", "--split-mode=replicate"], &["replicate\n", ": everything ("]),
        (&["--device=host"], &["device    host ("]),
    ] {
        let ran = load_small(more);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        for line in lines {
            assert!(ran.stdout().contains(line), "{line}: {}", ran.stdout());
        }
        assert_eq!(ran.stdout().matches("\ntime ").count(), 1);
    }
}

#[test]
fn proportions_and_fit_choose_the_parts() {
    let layers = |more: &[&str]| -> Vec<usize> {
        let finished = finished(&load_small(&[&["--json"], more].concat()));
        let parts = finished["parts"].as_array().unwrap();
        let norms = |part: &Value| {
            let slots = part["slots"].as_array().unwrap();
            let names = slots.iter().map(|slot| slot["slot"].as_str().unwrap());
            names.filter(|name| name.ends_with(".attn_norm")).count()
        };
        parts.iter().map(norms).collect()
    };
    assert_eq!(layers(&["--device=host,host", "--tensor-split=2,1"]), [2, 1]);
    assert_eq!(layers(&["--device=host,host", "--n-gpu-layers=1"]), [2, 1]);
    assert_eq!(layers(&["--device=host,host", "--fit"]), [3]);
    let whole = finished(&load_small(&["--device=host", "--json"]));
    let limit = format!("--vram-limit={}", whole["vram_bytes"].as_u64().unwrap() - 1);
    assert_eq!(layers(&["--device=host", "--fit"]), [3]);
    let ran = load_small(&["--device=host", "--fit", &limit]);
    assert_eq!(ran.code(), 6, "{}", ran.stderr());
}

#[track_caller]
fn refused(more: &[&str], exit_code: i32, words: &[&str]) {
    let ran = load_small(more);
    assert_eq!(ran.code(), exit_code, "{more:?}: {}", ran.stderr());
    for word in words {
        assert!(ran.stderr().contains(word), "{word}: {}", ran.stderr());
    }
}

#[test]
fn wrong_use_has_exit_code_2_and_prints_no_event() {
    for (more, words) in [
        (&["--device=host,host", "--split-mode=none"][..], "one device, not 2"),
        (&["--device=host,host", "--tensor-split=1,1,1"], "3 proportions"),
        (&["--split-mode=replicate", "--tensor-split=1"], "has no proportions"),
        (&["--device=auto,host"], "or auto alone"),
        (&["--n-gpu-layers=1", "--split-mode=tensor"], "divides by layers"),
        (&["--fit", "--split-mode=layer"], "cannot be used with"),
        (&["--memory=1GB"], "--memory"),
        (&["--via=cuda:1"], "exactly one GPU as --device"),
        (&["--device=host", "--via=cuda:1"], "exactly one GPU as --device"),
        (&["--device=cuda:0,cuda:1", "--via=cuda:2"], "exactly one GPU as --device"),
        (&["--device=cuda:0", "--via=host"], "other GPUs than cuda:0"),
        (&["--device=cuda:0", "--via=auto"], "other GPUs than cuda:0"),
        (&["--device=cuda:0", "--via=cuda:1,cuda:0"], "other GPUs than cuda:0"),
        (&["--device=cuda:0", "--via=1,cuda:1"], "each once"),
        (&["--device=cuda:0", "--via=cuda:1", "--fit"], "cannot be used with"),
    ] {
        refused(more, 2, &[words]);
        assert_eq!(load_small(&[more, &["--json"]].concat()).stdout(), "", "{more:?}");
    }
}

#[test]
fn an_impossible_division_is_refused_with_its_code() {
    refused(
        &["--device=host,host,host", "--split-mode=tensor"],
        4,
        &["error[PHI3_PLACEMENT]", "cannot be divided among 3 devices", "help: "],
    );
}

#[test]
fn memory_is_checked_on_all_devices_before_anything_is_copied() {
    let whole = finished(&load_small(&["--device=host", "--json"]));
    let whole = whole["vram_bytes"].as_u64().unwrap();
    let limited = |limit: u64| {
        let limit = format!("--vram-limit={limit}");
        load_small(&["--device=host,host", "--split-mode=replicate", "--json", &limit])
    };
    let ran = limited(whole - 1);
    assert_eq!(ran.code(), 6);
    let events = ran.json_lines();
    assert!(events.iter().all(|event| event["event"] != "progress"), "{events:?}");
    assert_eq!(events.last().unwrap()["code"], "INSUFFICIENT_VRAM");
    assert_eq!(limited(2 * whole).code(), 0);
}

#[test]
fn a_gpu_that_does_not_exist_is_unavailable_also_beside_the_host() {
    for device in ["--device=host,cuda:65535", "--device=cuda:65535"] {
        refused(&[device], 5, &["error[DEVICE_UNAVAILABLE]"]);
    }
    if loader::cuda_devices().is_ok_and(|gpus| gpus.is_empty()) {
        refused(&["--device=cuda:all"], 5, &["error[DEVICE_UNAVAILABLE]"]);
        refused(&["--n-gpu-layers=1"], 5, &["error[DEVICE_UNAVAILABLE]"]);
    }
}
