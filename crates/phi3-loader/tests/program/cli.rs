//! Tests of the program's results, messages and exit codes.

use crate::common::{expected, model_path, sha256};
use crate::program::{Ran, program, run};
use crate::small_model::{TENSORS, phi3_keys, write_large_model};
use gguf_format::write::GgufWriter;
use gguf_format::{GgmlType, GgufFile, TensorInfo};
use loader::Storage;
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn load(file: &Path, more: &[&str]) -> Ran {
    let mut arguments = vec!["load", file.to_str().unwrap(), "--device", "host"];
    arguments.extend_from_slice(more);
    run(arguments)
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn zeroed(writer: &GgufWriter) -> Vec<u8> {
    writer.to_bytes(|_, data| data.fill(0)).unwrap()
}

#[test]
fn load_reports_all_events_and_figures() {
    let ran = load(&model_path("fused-f16.gguf"), &["--json"]);
    assert_eq!(ran.code(), 0);
    assert_eq!(ran.stderr(), "");
    let events = ran.json_lines();
    assert!(events.iter().all(|event| event["schema_version"] == 1));
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "opened",
            "planned",
            "allocated",
            "progress",
            "progress",
            "progress",
            "progress",
            "progress",
            "verified",
            "finished"
        ]
    );
    let finished = events.last().unwrap();
    let plan = run(["plan", model_path("fused-f16.gguf").to_str().unwrap(), "--json"]);
    let plan = &plan.json_lines()[0];
    assert_eq!(finished["vram_bytes"], plan["vram_bytes"]);
    assert_eq!(finished["source_bytes"], plan["source_bytes"]);
    assert_eq!(finished["device"], "host");
    assert_eq!(finished["residency"]["ok"], true);
    let slots = plan["slots"].as_array().unwrap().len();
    assert_eq!(finished["residency"]["pointers_checked"], slots);
    let memory = |field: &str| finished["memory"][field].as_u64().unwrap();
    assert!(memory("free_before_bytes") <= memory("total_bytes"));
    assert!(memory("free_after_bytes") <= memory("total_bytes"));
    for field in ["seconds", "context_seconds", "transfer_seconds", "gb_per_s"] {
        assert!(finished[field].as_f64().unwrap() >= 0.0, "{field}");
    }
}

#[test]
fn the_report_of_a_load_to_the_host_has_words_and_units_that_fit() {
    let ran = load(&model_path("fused-f16.gguf"), &[]);
    let text = ran.stdout();
    assert!(text.contains("\nmemory    ") && text.contains(" KiB, "), "{text}");
    assert!(!text.contains("VRAM") && !text.contains("0.00 GB/s"), "{text}");
}

#[test]
fn plan_accounts_for_every_byte() {
    let path = model_path("tied-gqa-bf16.gguf");
    let ran = run(["plan", path.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code(), 0);
    let document = &ran.json_lines()[0];
    let operations = document["operations"].as_array().unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let end = operations
        .iter()
        .map(|op| number(&op["dest_offset"]) + number(&op["dest_bytes"]))
        .max()
        .unwrap();
    assert_eq!(number(&document["vram_bytes"]), end.next_multiple_of(256));
    let read: u64 = operations.iter().map(|op| number(&op["source_bytes"])).sum();
    assert_eq!(number(&document["source_bytes"]), read);
    assert_eq!(document["config"]["tied_output"], true);
}

#[test]
fn dumps_contain_the_weights_that_gguf_py_computes() {
    let dir = tempfile::tempdir().unwrap();
    for storage in [Storage::F16, Storage::Native] {
        for (name, slots) in expected() {
            let out = dir.path().join("dump.safetensors");
            let ran = load(
                &model_path(&name),
                &["--storage", storage.name(), "--dump", out.to_str().unwrap(), "--quiet"],
            );
            assert_eq!(ran.code(), 0, "{}", ran.stderr());
            let bytes = std::fs::read(&out).unwrap();
            let dump = SafeTensors::deserialize(&bytes).unwrap();
            let slots = slots
                .iter()
                .filter_map(|(slot, expected)| Some((slot, expected, expected.sha256(storage)?)));
            assert_eq!(dump.len(), slots.clone().count());
            for (slot, expected, digest) in slots {
                let tensor = dump.tensor(slot).unwrap();
                assert_eq!(sha256(tensor.data()), digest, "{name} {slot}");
                if storage == Storage::Native {
                    assert_eq!(tensor.dtype(), Dtype::U8);
                    assert_eq!(tensor.shape(), [tensor.data().len()]);
                } else {
                    assert_eq!(format!("{:?}", tensor.dtype()), expected.dtype);
                    let shape = tensor.shape().iter().map(|&dim| dim as u64);
                    assert!(shape.eq(expected.shape.iter().copied()));
                }
            }
        }
    }
}

#[test]
fn a_timeline_names_the_thread_and_the_tensors_of_each_step() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("timeline.json");
    let ran = load(
        &model_path("fused-k-quants.gguf"),
        &["--json", "--chunk", "16KiB", "--timeline", out.to_str().unwrap()],
    );
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let trace: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let steps = |kind: &'static str| events.iter().filter(move |event| event["cat"] == kind);
    let chunks = ran.json_lines().last().unwrap()["chunks"].as_u64().unwrap();
    assert!(chunks > 10);
    let chunks_of = |kind| steps(kind).map(|event| event["args"]["chunk"].as_u64().unwrap());
    for kind in ["read", "convert"] {
        assert_eq!(BTreeSet::from_iter(chunks_of(kind)), (0..chunks).collect(), "{kind}");
        assert!(steps(kind).all(|event| event["dur"].as_f64().unwrap() >= 0.0), "{kind}");
        let first = steps(kind).find(|event| event["args"]["chunk"] == 0).unwrap();
        let tensors = first["args"]["tensors"].as_array().unwrap();
        let name = format!("{kind} {}", tensors[0].as_str().unwrap());
        assert!(first["name"].as_str().unwrap().starts_with(&name), "{first}");
    }
    let gguf = GgufFile::open(model_path("fused-k-quants.gguf")).unwrap();
    let in_file: BTreeSet<_> = gguf.tensors().iter().map(TensorInfo::name).collect();
    let read = steps("read").flat_map(|event| event["args"]["tensors"].as_array().unwrap());
    assert_eq!(read.map(|tensor| tensor.as_str().unwrap()).collect::<BTreeSet<_>>(), in_file);

    // Each track has one name, and the name says what is on it.
    let names = |kind| -> BTreeMap<_, _> {
        let names = events.iter().filter(move |event| event["ph"] == "M" && event["name"] == kind);
        let name = |event: &Value| event["args"]["name"].as_str().unwrap().to_owned();
        names.map(move |event| (event["tid"].as_u64().unwrap(), name(event))).collect()
    };
    let (groups, threads) = (names("process_name"), names("thread_name"));
    for kind in ["wait", "read", "convert"] {
        let (group, thread) = if kind == "convert" {
            ("decoding", "decoding by reader ")
        } else {
            ("readers", "reader ")
        };
        for tid in steps(kind).map(|event| event["tid"].as_u64().unwrap()) {
            assert!(threads[&tid].starts_with(thread), "{kind}: {threads:?}");
            assert_eq!(groups[&tid], group, "{kind}");
        }
    }
}

#[test]
fn the_message_for_a_small_limit_contains_required_and_available_bytes() {
    let path = model_path("fused-f16.gguf");
    let plan = run(["plan", path.to_str().unwrap(), "--json"]);
    let required = plan.json_lines()[0]["vram_bytes"].as_u64().unwrap();

    let limit = (required - 1).to_string();
    let ran = load(&path, &["--json", "--vram-limit", &limit]);
    assert_eq!(ran.code(), 6);
    let events = ran.json_lines();
    assert!(events.iter().all(|event| event["event"] != "progress"), "nothing was copied");
    let failed = events.last().unwrap();
    assert_eq!(failed["event"], "failed");
    assert_eq!(failed["code"], "INSUFFICIENT_VRAM");
    assert_eq!(failed["class"], "INSUFFICIENT_VRAM");
    assert_eq!(failed["retriable"], false);
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains(&required.to_string()) && message.contains(&limit), "{message}");
    assert!(ran.stderr().starts_with("error[INSUFFICIENT_VRAM]: "), "{}", ran.stderr());
    assert!(ran.stderr().contains("\nhelp: "), "{}", ran.stderr());

    assert_eq!(load(&path, &["--vram-limit", &required.to_string()]).code(), 0);
}

#[test]
fn the_message_for_a_large_reserve_contains_every_figure() {
    let path = model_path("fused-f16.gguf");
    let plan = run(["plan", path.to_str().unwrap(), "--json"]);
    // The staging ring takes one huge page of 2 MiB.
    let required = plan.json_lines()[0]["vram_bytes"].as_u64().unwrap() + (2 << 20);

    let ran = load(&path, &["--json", "--reserve", "1000PB", "--chunk=4KiB", "--depth=1"]);
    assert_eq!(ran.code(), 6);
    let events = ran.json_lines();
    assert!(events.iter().all(|event| event["event"] != "allocated"), "nothing was allocated");
    let failed = events.last().unwrap();
    assert_eq!(failed["code"], "INSUFFICIENT_VRAM");
    assert_eq!(failed["retriable"], false, "the host will never have this much memory");
    let message = failed["message"].as_str().unwrap();
    for figure in [
        format!("{required} bytes required ("),
        " MiB), 2097152 bytes of them for staging (2.00 MiB), ".to_owned(),
        "1000000000000000000 bytes reserved in addition (931322574.62 GiB), ".to_owned(),
        " bytes free of ".to_owned(),
        " bytes total (".to_owned(),
        " GiB), limited by ".to_owned(),
    ] {
        assert!(message.contains(&figure), "{figure}: {message}");
    }
    assert!(ran.stderr().contains("reserve less"), "{}", ran.stderr());

    let from_environment = program(["load", path.to_str().unwrap(), "--device", "host"])
        .env("PHI3_LOADER_RESERVE", "1000PB")
        .output()
        .unwrap();
    assert_eq!(from_environment.status.code(), Some(6));
    assert_eq!(load(&path, &["--reserve", "1MiB"]).code(), 0);
}

#[test]
fn plan_computes_the_exact_cache_size_of_phi_3_mini() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mini.gguf");
    write_mini(&path);
    let plan = |more: &[&str]| {
        let ran = run([&["plan", path.to_str().unwrap(), "--json"], more].concat());
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        ran.json_lines().remove(0)
    };
    // Keys and values of 32 layers with 32 heads each. A head has 96 f16 values for each token.
    let token = 2 * 32 * 32 * 96 * 2_u64;
    let document = plan(&[]);
    let weights = document["vram_bytes"].as_u64().unwrap();
    assert_eq!(
        document["kv_cache"],
        serde_json::json!({ "context": 4096, "batch": 1, "type": "f16", "bytes": 1_610_612_736 })
    );
    assert_eq!(1_610_612_736, 4096 * token);
    assert_eq!(document["reserve_bytes"], 0);
    assert_eq!(document["total_bytes"], weights + 4096 * token);

    let document =
        plan(&["--context", "1000", "--batch", "3", "--kv-type", "f32", "--reserve", "1MiB"]);
    assert_eq!(
        document["kv_cache"],
        serde_json::json!({ "context": 1000, "batch": 3, "type": "f32", "bytes": 6000 * token })
    );
    assert_eq!(document["reserve_bytes"], 1 << 20);
    assert_eq!(document["total_bytes"], weights + 6000 * token + (1 << 20));
    assert_eq!(plan(&["--kv-type", "f8"])["kv_cache"]["bytes"], 2048 * token);

    let most = u32::MAX.to_string();
    let document = plan(&["--context", &most, "--batch", &most]);
    assert_eq!(document["kv_cache"]["bytes"], Value::Null);
    assert_eq!(document["total_bytes"], Value::Null);

    let ran = run(["plan", path.to_str().unwrap(), "--reserve", "500MB"]);
    let total = weights + 4096 * token + 500_000_000;
    for line in [
        "KV cache  1.61 GB (1.50 GiB, 1610612736 bytes): 1 x 4096 tokens, f16".to_owned(),
        "reserve   500.00 MB (476.84 MiB, 500000000 bytes)".to_owned(),
        format!(", {total} bytes)"),
    ] {
        assert!(ran.stdout().contains(&line), "{line}: {}", ran.stdout());
    }
}

/// Writes a sparse file with the header of Phi-3-mini. Instead of weights it has a hole, which takes no disk
/// space.
fn write_mini(path: &Path) {
    let layout =
        Blueprint::new(Preset::Mini4k, Layout::Fused, TypeMix::Q4_K_M).writer().layout().unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(layout.file_len()).unwrap();
    file.write_all_at(layout.header(), 0).unwrap();
}

#[test]
fn a_malformed_file_has_its_exit_code_and_a_message_that_names_the_fault() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(model_path("fused-f16.gguf")).unwrap();

    let with = |skip: &str, replace: (&str, &[u64], GgmlType)| {
        let mut writer = phi3_keys();
        for tensor in TENSORS.iter().filter(|tensor| tensor.0 != skip) {
            let (name, dims, ggml_type) = if tensor.0 == replace.0 { replace } else { *tensor };
            writer.tensor(name, dims, ggml_type);
        }
        zeroed(&writer)
    };
    let nothing: (&str, &[u64], GgmlType) = ("", &[], GgmlType::F16);
    let mut unknown = GgufWriter::new();
    unknown.kv("general.architecture", "qwen2");

    // Name and content of the file, exit code, and a part of the message.
    let mut cases: Vec<(&str, Vec<u8>, i32, &str)> = vec![
        ("text.gguf", b"this is no model\n".to_vec(), 3, "not a GGUF file"),
        ("empty.gguf", Vec::new(), 3, "empty.gguf"),
        ("truncated.gguf", good[..good.len() / 2].to_vec(), 3, "truncated"),
        ("missing.gguf", with("blk.0.ffn_down.weight", nothing), 3, "blk.0.ffn_down.weight"),
        (
            "misshapen.gguf",
            with("", ("blk.0.attn_output.weight", &[32, 31], GgmlType::F16)),
            3,
            "blk.0.attn_output.weight",
        ),
        (
            "unconvertible.gguf",
            with("", ("blk.0.attn_output.weight", &[32, 32], GgmlType::I8)),
            4,
            "blk.0.attn_output.weight",
        ),
        ("architecture.gguf", zeroed(&unknown), 4, "qwen2"),
    ];
    let mut version_1 = good.clone();
    version_1[4] = 1;
    cases.push(("version.gguf", version_1, 4, "version 1"));

    for (name, bytes, code, fault) in cases {
        let path = write(&dir, name, &bytes);
        for ran in [load(&path, &[]), run(["plan", path.to_str().unwrap()])] {
            assert_eq!(ran.code(), code, "{name}: {}", ran.stderr());
            assert!(ran.stderr().contains(fault), "{name}: {}", ran.stderr());
            assert!(ran.stderr().starts_with("error["), "{name}: {}", ran.stderr());
            assert_eq!(ran.stdout(), "", "{name}");
        }
    }
    assert_eq!(load(&dir.path().join("absent.gguf"), &[]).code(), 7);
    assert_eq!(load(dir.path(), &[]).code(), 7, "a folder");
    let path = write(&dir, "good.gguf", &with("", nothing));
    assert_eq!(load(&path, &[]).code(), 0);
}

#[test]
fn inspect_shows_files_of_any_model_and_refuses_broken_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = GgufWriter::new();
    other.kv("general.architecture", "bert\u{1b}[31m").tensor("t", &[32], GgmlType::Q8_0);
    let path = write(&dir, "other.gguf", &zeroed(&other));
    let ran = run(["inspect", path.to_str().unwrap()]);
    assert_eq!(ran.code(), 0);
    assert!(ran.stdout().contains("no Phi-3 model"), "{}", ran.stdout());
    assert!(!ran.stdout().contains('\u{1b}'), "control characters are escaped");

    let ran = run(["inspect", path.to_str().unwrap(), "--json"]);
    let document = &ran.json_lines()[0];
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["config"], Value::Null);
    assert_eq!(document["tensors"][0]["type"], "Q8_0");

    let path = model_path("tied-gqa-bf16.gguf");
    let ran = run(["inspect", path.to_str().unwrap(), "--json"]);
    let config = &ran.json_lines()[0]["config"];
    assert_eq!(
        (&config["heads"], &config["kv_heads"], &config["head_dim"], &config["rope_dim"]),
        (&3.into(), &1.into(), &24.into(), &12.into())
    );

    let mut vocabulary = phi3_keys();
    vocabulary.kv("tokenizer.ggml.tokens", vec!["a".to_owned(); 8]).kv("long", "x".repeat(100_000));
    let path = write(&dir, "vocabulary.gguf", &zeroed(&vocabulary));
    let ran = run(["inspect", path.to_str().unwrap()]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert!(ran.stdout().contains("no Phi-3 model that can be loaded"), "{}", ran.stdout());
    assert!(ran.stdout().contains("\u{2026}\" (100000 bytes)"), "{}", ran.stdout());
    let ran = run(["inspect", path.to_str().unwrap(), "--json"]);
    let document = &ran.json_lines()[0];
    assert!(document["model_note"].as_str().unwrap().contains("no tensors"));
    assert_eq!(document["metadata"]["long"]["string_bytes"], 100_000);
    assert_eq!(document["metadata"]["long"]["start"].as_str().unwrap().len(), 200);
    assert_eq!(run(["plan", path.to_str().unwrap()]).code(), 4);

    for (key, value) in [("phi3.block_count", 1_000_000_000_u32), ("phi3.attention.head_count", 0)]
    {
        let mut absurd = GgufWriter::new();
        absurd.kv("general.architecture", "phi3").kv(key, value);
        let path = write(&dir, "absurd.gguf", &zeroed(&absurd));
        let ran = run(["inspect", path.to_str().unwrap()]);
        assert_eq!(ran.code(), 3, "{}", ran.stdout());
        assert!(ran.stderr().contains(key), "{}", ran.stderr());
    }
}

/// A load does not depend on these strings, so a file that contains them is not refused.
#[test]
fn text_that_is_not_utf8_is_accepted_and_shown_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = phi3_keys();
    writer.kv("general.name", "n?").kv("general.author", "a?").kv("k?", 7_u32);
    for (name, dims, ggml_type) in TENSORS {
        writer.tensor(name, dims, ggml_type);
    }
    let mut bytes = zeroed(&writer);
    for text in [b"n?", b"a?", b"k?"] {
        let at = bytes.windows(2).position(|pair| pair == text).unwrap();
        bytes[at + 1] = 0xe9;
    }
    let path = write(&dir, "model.gguf", &bytes);
    let path = path.to_str().unwrap();
    for command in [&["inspect", path][..], &["plan", path], &["load", path, "--device", "host"]] {
        let json = [command, &["--json"]].concat();
        for arguments in [command.to_vec(), json] {
            let ran = run(&arguments);
            assert_eq!(ran.code(), 0, "{arguments:?}: {}", ran.stderr());
        }
    }
    let text = run(["inspect", path]);
    for shown in ["k\\xe9 = 7", "general.author = \"a\\xe9\"", "general.name = \"n\\xe9\""] {
        assert!(text.stdout().contains(shown), "{}", text.stdout());
    }
    let document = run(["inspect", path, "--json"]);
    let document = &document.json_lines()[0];
    assert_eq!(document["metadata"]["k\\xe9"], 7);
    assert_eq!(document["metadata"]["general.author"], "a\\xe9");
    assert_eq!(document["config"]["name"], "n\\xe9");
}

#[test]
fn synth_writes_the_same_loadable_file_for_the_same_seed() {
    let dir = tempfile::tempdir().unwrap();
    let synth = |name: &str, more: &[&str]| {
        let path = dir.path().join(name);
        let mut arguments = vec!["synth", path.to_str().unwrap(), "--preset", "tiny"];
        arguments.extend_from_slice(more);
        let ran = run(arguments);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        path
    };
    for layout in ["fused", "split"] {
        for kind in ["f16", "bf16", "f32", "q8_0", "q4_k_m"] {
            let name = format!("{layout}-{kind}.gguf");
            let path = synth(&name, &["--type", kind, "--layout", layout]);
            let ran = load(&path, &["--verify", "readback"]);
            assert_eq!(ran.code(), 0, "{kind} {layout}: {}", ran.stderr());
        }
    }
    let bytes = |path: PathBuf| std::fs::read(path).unwrap();
    let first = bytes(synth("first.gguf", &["--seed", "7"]));
    assert!(first == bytes(synth("second.gguf", &["--seed", "7"])));
    assert!(first != bytes(synth("third.gguf", &["--seed", "8"])));
}

#[test]
fn an_uncached_file_is_read_by_more_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    // The file is sparse. Its pages are in the page cache only after a read.
    write_large_model(&path);
    let threads = |path: &Path, more: &[&str]| {
        let ran = load(path, &[&["--json", "--io", "auto"], more].concat());
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        ran.json_lines().last().unwrap()["threads"].as_u64().unwrap()
    };
    assert!(threads(&path, &[]) >= 16);
    write_large_model(&path);
    assert_eq!(threads(&path, &["--threads", "3"]), 3);
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert_eq!(threads(&written_model(&dir), &[]), cores.min(32));
}

/// Writes a model, which is then in the page cache.
fn written_model(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("written.gguf");
    std::fs::write(&path, std::fs::read(model_path("fused-f16.gguf")).unwrap()).unwrap();
    path
}

#[test]
fn devices_always_lists_host_memory() {
    let ran = run(["devices", "--json"]);
    assert_eq!(ran.code(), 0);
    let document = &ran.json_lines()[0];
    assert_eq!(document["schema_version"], 1);
    let host = &document["devices"][0];
    assert_eq!((host["kind"].as_str(), host["device"].as_str()), (Some("host"), Some("host")));
    assert!(host["free_bytes"].as_u64().unwrap() <= host["total_bytes"].as_u64().unwrap());
    let text = run(["devices"]);
    let mut lines = text.stdout().lines();
    assert_eq!(
        lines
            .next()
            .unwrap()
            .split("  ")
            .filter(|word| !word.is_empty())
            .map(str::trim)
            .collect::<Vec<_>>(),
        ["device", "free MiB", "total MiB", "free GB", "total GB", "compute", "name"]
    );
    let total = host["total_bytes"].as_u64().unwrap();
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let shown = [(total >> 20).to_string(), format!("{:.2}", total as f64 / 1e9)];
    assert_eq!((row[0], [row[2], row[4]]), ("host", [&*shown[0], &*shown[1]]));
}

#[test]
fn wrong_usage_exits_2() {
    for arguments in [
        &["load"][..],
        &["frobnicate"],
        &["load", "x.gguf", "--device", "gpu"],
        &["load", "x.gguf", "--chunk", "0"],
        &["load", "x.gguf", "--threads", "0"],
        &["load", "x.gguf", "--vram-limit", "lots"],
        &["load", "x.gguf", "--reserve", "-1"],
        &["plan", "x.gguf", "--context", "0"],
        &["plan", "x.gguf", "--kv-type", "q8"],
        &["synth", "x.gguf", "--preset", "huge"],
    ] {
        assert_eq!(run(arguments).code(), 2, "{arguments:?}");
    }
    assert_eq!(run(["--help"]).code(), 0);
    assert_eq!(run(["--version"]).code(), 0);
}

#[test]
fn files_of_procfs_and_sysfs_are_refused_and_not_retriable() {
    // The lengths of the first two are 0. The length of the third is wrong, and that of the last is right.
    for file in
        ["/proc/cpuinfo", "/proc/self/status", "/sys/kernel/uevent_seqnum", "/sys/kernel/notes"]
    {
        if Path::new(file).exists() {
            let ran = load(Path::new(file), &["--json"]);
            assert!([3, 7].contains(&ran.code()), "{}", ran.stderr());
            let failed = &ran.json_lines()[0];
            assert_eq!(failed["retriable"], false, "{file}: {failed}");
            for command in ["inspect", "plan"] {
                assert_eq!(run([command, file]).code(), ran.code(), "{command} {file}");
            }
        }
    }
}

#[test]
fn a_size_is_a_whole_number_of_bytes() {
    for option in ["--reserve", "--vram-limit", "--chunk", "--read-size"] {
        for wrong in ["0.5", "1.5", "1.0", "0.3B", "5e-1", "-1", "", "16EiB", "lots"] {
            let ran = run(["load", "x.gguf", &format!("{option}={wrong}")]);
            assert_eq!(ran.code(), 2, "{option} {wrong}");
            assert!(ran.stderr().contains(option), "{}", ran.stderr());
        }
        let ran = load(&model_path("fused-f16.gguf"), &[option, "0.25GiB"]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
    }
    let with_variable =
        program(["plan", "x.gguf"]).env("PHI3_LOADER_RESERVE", "0.5").output().unwrap();
    assert_eq!(with_variable.status.code(), Some(2));
}

#[test]
fn an_empty_variable_counts_as_absent() {
    // Every environment variable that the help lists.
    let help = run(["load", "--help"]);
    let mut variables: Vec<_> = help
        .stdout()
        .split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("PHI3_LOADER_"))
        .collect();
    variables.dedup();
    assert!(variables.len() >= 10, "{variables:?}");
    let path = model_path("fused-f16.gguf");
    for command in ["load", "plan", "bench"] {
        let mut program = program([command]);
        program.arg(&path).arg("--json");
        if command == "bench" {
            program.arg("--repeat=1");
        }
        let output = program.envs(variables.iter().map(|&name| (name, ""))).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let stdout = str::from_utf8(&output.stdout).unwrap();
        let first: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
        let (field, expected) = match command {
            "plan" => (&first["storage"], "f16"),
            "bench" => (&first["settings"]["verify"], "residency"),
            _ => (&first["event"], "opened"),
        };
        assert_eq!(field, expected);
    }
}

#[test]
fn the_version_says_how_the_program_was_built() {
    let version = concat!("phi3-loader ", env!("CARGO_PKG_VERSION"), "\n");
    for command in [&["-V"][..], &["load", "-V"], &["resident", "list", "-V"]] {
        assert_eq!(run(command).stdout(), version);
    }
    let ran = run(["load", "--version"]);
    assert!(ran.stdout().starts_with(version), "{}", ran.stdout());
    let cuda =
        if cuda_sys::cuda_compiled() { "code for sm_" } else { "\nCUDA not in this build\n" };
    assert!(ran.stdout().contains(cuda), "{}", ran.stdout());
}

#[test]
fn logs_go_to_stderr_and_results_to_stdout() {
    let ran = load(&model_path("fused-f16.gguf"), &["-v"]);
    assert_eq!(ran.code(), 0);
    for fact in ["layers=3", "hidden=32", "attention=multi-head", "unit=4 of=5", "vram_bytes"] {
        assert!(ran.stderr().contains(fact), "{fact}: {}", ran.stderr());
    }
    assert!(!ran.stdout().contains("INFO"));
    let ran = load(&model_path("fused-f16.gguf"), &["-vv"]);
    assert!(ran.stderr().contains("Layer 2 loaded"), "{}", ran.stderr());
    assert_eq!(load(&model_path("fused-f16.gguf"), &[]).stderr(), "");
}
