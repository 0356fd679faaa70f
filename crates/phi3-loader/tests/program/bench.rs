//! Tests that `bench` reports all its measurements. They do not check the times.

use crate::program::{Ran, below_shell, program};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn synth(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    let written = run(&["synth", path.to_str().unwrap(), "--preset", "tiny", "--type", "q4_k_m"]);
    assert!(written.status.success());
    path
}

fn names<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|entry| entry[field].as_str().unwrap()).collect()
}

/// Checks that the median is between the minimum and the maximum.
fn assert_is_spread(spread: &Value) {
    let [min, median, max] = ["min", "median", "max"].map(|field| spread[field].as_f64().unwrap());
    assert!(0.0 <= min && min <= median && median <= max, "{spread}");
}

#[test]
fn a_run_reports_limits_loads_kernels_and_peers() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path());
    let [svg, markdown] = ["chart.svg", "results.md"].map(|name| folder.path().join(name));
    let ran = run(&[
        "bench",
        model.to_str().unwrap(),
        "--device=host",
        "--repeat=2",
        "--variants",
        "--cold",
        "--resident",
        "--kernels",
        "--peers",
        "--shapes=1:2:4096:4096,3:4:1MiB:64KiB",
        "--json",
        "--svg",
        svg.to_str().unwrap(),
        "--markdown",
        markdown.to_str().unwrap(),
    ]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["machine"]["device"], "host");
    assert_eq!(document["settings"]["repeat"], 2);
    check_limits(&document);
    check_loads(&document["loads"]);
    check_small_tensors(&document["small_tensors"]);
    check_shapes(document["shapes"].as_array().unwrap());
    for check in ["residency_seconds", "fingerprint_seconds"] {
        assert_is_spread(&document["health"][check]);
    }
    check_kernels(&document);
    check_peers(&document);
    check_chart(&document, &std::fs::read_to_string(svg).unwrap());
    check_markdown(&document, &std::fs::read_to_string(markdown).unwrap());
}

fn check_limits(document: &Value) {
    let kinds = names(&document["limits"], "kind");
    for kind in ["memory_copy", "memory_copy_to_new", "page_cache", "disk_direct", "disk_buffered"]
    {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    assert!(document["reference"]["gb_per_s"].as_f64().unwrap() > 0.0);
}

fn check_loads(loads: &Value) {
    let order = ["warm", "checksum", "native", "reused", "swap", "half-cached", "cold", "attached"];
    assert_eq!(names(loads, "name"), order);
    let [f16, native] = ["f16", "native"];
    assert_eq!(names(loads, "storage"), [f16, f16, native, f16, f16, f16, f16, f16]);
    assert_eq!(names(loads, "verify")[..3], ["residency", "checksum", "residency"]);
    let phases = ["parse", "plan", "context", "pin", "allocate", "prepare", "transfer", "verify"];
    for load in loads.as_array().unwrap() {
        let found = names(&load["rows"], "phase");
        assert_eq!(found[..phases.len()], phases);
        assert_eq!(found[phases.len()], "load");
        let one_process = load["name"] == "reused" || load["name"] == "swap";
        assert_eq!(found.contains(&"process"), !one_process);
        for row in load["rows"].as_array().unwrap() {
            assert_is_spread(&row["seconds"]);
            // These take time on every machine, so a time of zero means that they were not measured.
            if ["parse", "transfer", "load", "process"].contains(&row["phase"].as_str().unwrap()) {
                assert!(row["seconds"]["min"].as_f64().unwrap() > 0.0, "{}: {row}", load["name"]);
            }
        }
        assert_is_spread(&load["gb_per_s"]);
        if load["name"] == "attached" {
            assert_eq!(load["gb_per_s"]["max"], 0.0, "no weights are read");
            assert!(load["share_of_reference"].is_null());
        } else {
            assert_is_spread(&load["share_of_reference"]);
        }
    }

    // Some file systems, such as tmpfs, never drop pages.
    let cached = |load: usize| loads[load]["cached"]["median"].as_f64();
    if let (Some(half), Some(cold)) = (cached(5), cached(6))
        && cold < 0.1
    {
        assert!(half < 0.7, "half-cached: {half} of the file was in the page cache");
    }
}

fn check_small_tensors(small: &Value) {
    assert!(small["tensors"].as_u64().unwrap() > 100, "{small}");
    assert_is_spread(&small["seconds"]);
    assert_is_spread(&small["seconds_as_one"]);
}

fn check_shapes(shapes: &[Value]) {
    for (shape, want) in shapes.iter().zip([[1, 2, 4096, 4096], [3, 4, 1 << 20, 64 << 10]]) {
        let fields = ["threads", "depth", "chunk_bytes", "read_bytes"];
        assert_eq!(fields.map(|field| shape[field].as_u64().unwrap()), want);
        assert_is_spread(&shape["seconds"]);
        assert!(shape["gb_per_s"]["min"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(shapes.len(), 2);
}

fn check_kernels(document: &Value) {
    let kernels = names(&document["kernels"], "name");
    let decoders = cuda_sys::decoders();
    for name in decoders.iter().map(|decoder| decoder.name.as_str()).chain(["copy", "digest"]) {
        assert!(kernels.contains(&name), "{name}");
    }
}

fn check_peers(document: &Value) {
    assert_eq!(names(&document["peers"], "name"), ["safetensors", "llama.cpp"]);
    for peer in document["peers"].as_array().unwrap() {
        assert!(peer["note"].as_str().unwrap().starts_with("skipped: "), "{peer}");
    }
}

/// Returns the label and the sentence of each limit and each load that reads the file.
fn explained(document: &Value) -> impl Iterator<Item = (String, &str)> {
    let rows = |list: &'static str, after: &'static str| {
        let rows = document[list].as_array().unwrap().iter();
        rows.filter(|row| row["gb_per_s"]["max"].as_f64().is_some_and(|rate| rate > 0.0)).map(
            move |row| {
                let [name, sentence] = ["name", "description"].map(|field| row[field].as_str());
                (format!("{}{after}", name.unwrap()), sentence.unwrap())
            },
        )
    };
    rows("limits", "").chain(rows("loads", " load"))
}

/// Checks that the chart has a bar, a label and a sentence for each row, and a legend. Unit tests check that no text
/// is clipped.
fn check_chart(document: &Value, svg: &str) {
    let elements = xml_elements(svg);
    let svg = svg.replace("&apos;", "'");
    for (label, sentence) in explained(document) {
        for text in [&label, sentence] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
    for text in ["limit of this machine", "load by phi3-loader", "lowest to highest run"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(!svg.contains("attached load") && !svg.contains("other loader"), "{svg}");
    let rows = explained(document).count();
    // One rectangle is the background, two belong to the legend.
    assert_eq!(elements.iter().filter(|&&name| name == "rect").count(), rows + 3);
    assert_eq!(elements[0], "svg");
}

fn check_markdown(document: &Value, markdown: &str) {
    let command = document["command"].as_str().unwrap();
    assert!(command.starts_with("phi3-loader bench /"), "{command}");
    assert!(command.contains(" '--device=host' '--repeat=2' --variants "), "{command}");
    assert!(markdown.starts_with(&format!("```sh\n{command}\n```\n")), "{markdown}");
    for (label, sentence) in explained(document) {
        let row = |line: &str| line.replace('\\', "").starts_with(&format!("| {label} | "));
        let row = markdown.lines().find(|line| row(line)).unwrap_or_else(|| panic!("{label}"));
        assert!(row.ends_with(&format!(" | {sentence} |")), "{row}");
    }
    for line in markdown.lines().filter(|line| line.starts_with('|')) {
        assert!(line.ends_with(" |"), "{line}");
    }
}

/// A program that prints only llama-bench's lines about loads.
const LLAMA_BENCH: &str = r#"#!/bin/sh
for argument; do
    case $argument in
    *.gguf)
        test -f "$argument" || exit 9
        echo 'llama-bench: benchmark 1/3: starting' >&2
        echo 'llama-bench: benchmark 1/3: warmup prompt run' >&2
        echo 'llama-bench: benchmark 1/3: prompt run 1/1' >&2
        ;;
    esac
done
"#;

#[test]
fn an_installed_peer_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path());
    let program = folder.path().join("llama-bench");
    std::fs::write(&program, LLAMA_BENCH).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = run(&[
        "bench",
        model.to_str().unwrap(),
        "--device=host",
        "--repeat=2",
        "--peers",
        "--llama-bench",
        program.to_str().unwrap(),
        "--json",
    ]);
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let peer = &document["peers"][1];
    assert_eq!(peer["name"], "llama.cpp");
    assert_is_spread(&peer["seconds"]);
    assert_is_spread(&peer["gb_per_s"]);
}

/// Returns the names of the elements in the order of their start tags. Checks that every element is closed.
fn xml_elements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut open = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        assert!(!after.contains('>'), "{after}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        found.push(name);
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    found
}

#[test]
fn without_json_the_results_are_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path());
    let ran = run(&["bench", model.to_str().unwrap(), "--device=host", "--repeat=1"]);
    let table = String::from_utf8(ran.stdout).unwrap();
    for text in ["page cache, 1 thread", "storage, O_DIRECT", "memory copy", "warm load", "context"]
    {
        assert!(table.contains(text), "{text}: {table}");
    }
    // Each row and each remark has a sentence.
    for line in table.lines().filter(|line| line.starts_with("  ")) {
        assert!(line.ends_with('.'), "{line}");
    }
    assert!(!table.contains("cold load") && !table.contains("peer"), "{table}");
}

#[test]
fn failures_of_loads_and_arguments_have_the_exit_codes_of_load() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path());
    let model = model.to_str().unwrap();
    let code = |arguments: &[&str]| {
        let ran = run(arguments);
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        (ran.status.code().unwrap(), stderr)
    };
    for wrong in [
        &["bench"][..],
        &["bench", model, "--repeat", "0"],
        &["bench", model, "--device", "gpu"],
        &["bench", model, "--device=host", "--via=1"],
        &["bench", model, "--llama-bench", "llama-bench"],
        &["bench", model, "--safetensors", "weights.safetensors"],
    ] {
        assert_eq!(code(wrong).0, 2, "{wrong:?}");
    }
    assert_eq!(code(&["bench", "nowhere.gguf"]).0, 7);
    let python = folder.path().join("python");
    std::fs::write(&python, "#!/bin/sh\necho no torch >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let python = python.to_str().unwrap();
    for (option, value, why) in [
        ("--python", "no-such-program", "no-such-program is not a program that can be started"),
        ("--python", python, "ended with exit status: 1: no torch"),
        ("--llama-bench", model, "is not a program that can be started"),
        ("--safetensors", "nowhere.safetensors", "No such file or directory"),
    ] {
        // The loads would fail as well, with another exit code.
        let bench = ["bench", model, "--device=cuda:65535", "--peers", option, value];
        let (code, stderr) = code(&bench);
        assert!(code == 2 && stderr.starts_with(&format!("error: {option}: ")), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
    let unavailable = code(&["bench", model, "--device", "cuda:99"]);
    assert_eq!(unavailable.0, 5);
    assert!(unavailable.1.contains("error[DEVICE_UNAVAILABLE]"), "{}", unavailable.1);
    assert!(unavailable.1.contains("help: "), "{}", unavailable.1);
}

#[test]
fn loads_to_several_devices_are_measured_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path());
    let model = model.to_str().unwrap();
    let ran = run(&["bench", model, "--device=host,host", "--repeat=1", "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let loads = &document["loads"];
    let order = ["warm", "layer", "tensor", "replicate", "reused", "swap"];
    assert_eq!(names(loads, "name"), order);
    let [one, two] = ["host", "host,host"];
    assert_eq!(names(loads, "device"), [one, two, two, two, one, one]);
    for load in loads.as_array().unwrap() {
        // The reference is the limit of one device.
        assert_eq!(load["share_of_reference"].is_null(), load["device"] == two, "{load}");
    }
    assert_eq!(document["machine"]["device"], one);
}

#[test]
fn results_are_printed_although_the_chart_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path());
    let svg = folder.path().join("chart.svg");
    let [model, svg] = [&model, &svg].map(|path| path.to_str().unwrap());
    let bench = ["bench", model, "--device=host", "--repeat=1", "--json", "--svg", svg];
    let ran = Ran::of(&mut below_shell("ulimit -f 1", bench));
    assert_eq!(ran.code(), 7, "{}", ran.stderr());
    assert_eq!(ran.json_lines()[0]["loads"][0]["name"], "warm");

    let ran = run(&["bench", model, "--device=host", "--svg", "/no/such/folder/chart.svg"]);
    assert_eq!(ran.status.code(), Some(7), "the error is reported before the measurements");
    assert!(ran.stdout.is_empty());
}

#[test]
fn measured_loads_use_the_options_of_bench_and_ignore_other_variables() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::rename(synth(folder.path()), folder.path().join("-x.gguf")).unwrap();
    let ran = program(["bench", "--repeat=1", "--json", "--", "-x.gguf"])
        .current_dir(folder.path())
        .env("PHI3_LOADER_DEVICE", "host")
        .env("PHI3_LOADER_STORAGE", "native")
        .env("PHI3_LOADER_VRAM_LIMIT", "1")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(document["settings"]["storage"], "native");
    assert_eq!(document["loads"][0]["storage"], "native");
}
