//! Tests of `inspect`.

use crate::common::model_path;
use crate::program::{Ran, run};
use crate::small_model::phi3_keys;
use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use serde_json::{Value, json};
use std::path::Path;

const MODEL: &str = "tied-gqa-bf16.gguf";

fn inspect(path: &Path, arguments: &[&str]) -> Ran {
    run([&["inspect", path.to_str().unwrap()], arguments].concat())
}

#[track_caller]
fn document(ran: &Ran) -> Value {
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    ran.json_lines().remove(0)
}

/// Returns the lines below a heading, each as its words.
fn table<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, table) =
        text.split_once(&format!("\n\n{heading}\n")).unwrap_or_else(|| panic!("{text}"));
    let lines = table.lines().take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().collect()).collect()
}

fn written(dir: &tempfile::TempDir, name: &str, writer: &GgufWriter) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, writer.to_bytes(|_, data| data.fill(0)).unwrap()).unwrap();
    path
}

#[test]
fn parameters_and_bytes_are_those_of_all_tensors() {
    let path = model_path(MODEL);
    let document = document(&inspect(&path, &["--json"]));
    let tensors = document["tensors"].as_array().unwrap();
    let elements = |tensor: &Value| {
        tensor["dims"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).product::<u64>()
    };
    let sum = |of: &dyn Fn(&Value) -> u64, tensors: &[&Value]| {
        tensors.iter().map(|tensor| of(tensor)).sum::<u64>()
    };
    let bytes = |tensor: &Value| tensor["bytes"].as_u64().unwrap();
    let all: Vec<_> = tensors.iter().collect();
    let (parameters, all_bytes) = (sum(&elements, &all), sum(&bytes, &all));
    assert_eq!(document["parameters"], parameters);
    assert_eq!(document["bits_per_weight"], all_bytes as f64 * 8.0 / parameters as f64);
    let types = document["bytes_by_type"].as_array().unwrap();
    assert!(types.len() > 1);
    assert!(types.is_sorted_by_key(|of| std::cmp::Reverse(bytes(of))));
    for of in types {
        let same: Vec<_> = all.iter().copied().filter(|one| one["type"] == of["type"]).collect();
        assert_eq!(of["tensors"], same.len());
        assert_eq!(of["parameters"], sum(&elements, &same));
        assert_eq!(of["bytes"], sum(&bytes, &same));
    }

    let text = inspect(&path, &[]);
    let line = format!(
        "weights   {parameters} parameters, {:.2} bits per weight\n",
        document["bits_per_weight"].as_f64().unwrap()
    );
    assert!(text.stdout().contains(&line), "{line}: {}", text.stdout());
    let rows = table(text.stdout(), "bytes by type");
    assert_eq!(rows[0], ["type", "tensors", "bytes", "share"]);
    for (row, of) in rows[1..].iter().zip(types) {
        assert_eq!(json!(row[0]), of["type"]);
        assert_eq!(row[1], of["tensors"].to_string());
    }
    let rows = table(text.stdout(), "tensors");
    assert_eq!(rows[0], ["name", "type", "shape", "offset", "bytes"]);
    assert_eq!(rows.len(), tensors.len() + 1);
    for (row, tensor) in rows[1..].iter().zip(tensors) {
        assert_eq!(
            (json!(row[0]), json!(row[1])),
            (tensor["name"].clone(), tensor["type"].clone())
        );
        assert_eq!(row[row.len() - 1], tensor["bytes"].to_string());
    }
}

#[test]
fn the_file_type_has_its_name_and_an_unknown_one_its_number() {
    let dir = tempfile::tempdir().unwrap();
    for (number, name, line) in [
        (15_u32, json!("Q4_K - Medium"), "\ntype      Q4_K - Medium\n"),
        (1024 + 7, json!("(guessed) Q8_0"), "\ntype      (guessed) Q8_0\n"),
        (999, Value::Null, "\ntype      999\n"),
    ] {
        let mut writer = GgufWriter::new();
        writer.kv("general.architecture", "bert").kv("general.file_type", number);
        let path = written(&dir, "model.gguf", &writer);
        let document = document(&inspect(&path, &["--json"]));
        assert_eq!((&document["file_type"], &document["file_type_name"]), (&json!(number), &name));
        assert_eq!(
            (&document["parameters"], &document["bits_per_weight"]),
            (&json!(0), &Value::Null)
        );
        let text = inspect(&path, &[]);
        assert!(text.stdout().contains(line), "{}", text.stdout());
    }
    let path = written(&dir, "model.gguf", &GgufWriter::new());
    let text = inspect(&path, &[]);
    assert_eq!(text.code(), 0, "{}", text.stderr());
    assert!(!text.stdout().contains("\ntype  "), "{}", text.stdout());
}

#[test]
fn the_rope_line_has_the_context_and_the_factors() {
    let text = inspect(&model_path("long-context-f16.gguf"), &["--no-tensors"]);
    let rope = "\nrope      neox, 6 dimensions, base 10000, scaling longrope, original context 8, attention factor \
                1.25, long and short factors of 3 elements\n";
    assert!(text.stdout().contains(rope), "{}", text.stdout());
}

#[test]
fn a_pattern_chooses_tensors_and_changes_no_sum() {
    let path = model_path(MODEL);
    let names = |arguments: &[&str]| {
        let document = document(&inspect(&path, &[arguments, &["--json"]].concat()));
        let names = document["tensors"].as_array().unwrap().iter();
        let names: Vec<_> =
            names.map(|tensor| tensor["name"].as_str().unwrap().to_owned()).collect();
        (names, document["tensor_count"].as_u64().unwrap(), document["parameters"].clone())
    };
    let (all, count, parameters) = names(&[]);
    assert_eq!(all.len() as u64, count);
    let starting =
        |start| all.iter().filter(|name| name.starts_with(start)).cloned().collect::<Vec<_>>();
    let of_layer = starting("blk.1.");
    assert!(!of_layer.is_empty());
    assert_eq!(names(&["--tensors", "blk.1.*"]), (of_layer.clone(), count, parameters.clone()));
    assert_eq!(names(&["--tensors", "blk.[1].*", "--tensors", "x"]).0, of_layer);
    let two = names(&["--tensors=token_embd.*", "--tensors=blk.{1,99}.*"]).0;
    assert_eq!(two.len(), of_layer.len() + 1);
    assert_eq!(names(&["--no-tensors"]), (Vec::new(), count, parameters));

    let text = inspect(&path, &["--tensors", "blk.1.*"]);
    assert_eq!(table(text.stdout(), "tensors").len(), of_layer.len() + 1);
    let without = inspect(&path, &["--no-tensors"]);
    assert!(!without.stdout().contains("\ntensors\n") && without.stdout().contains("\nmetadata\n"));
}

#[test]
fn a_pattern_that_matches_nothing_is_a_warning() {
    let path = model_path(MODEL);
    let ran = inspect(&path, &["--tensors", "blk.99.*"]);
    assert_eq!(ran.code(), 0);
    assert!(ran.stderr().contains("no tensor matches blk.99.*"), "{}", ran.stderr());
    assert!(!ran.stdout().contains("\ntensors\n"), "{}", ran.stdout());
    assert_eq!(inspect(&path, &["--quiet", "--tensors", "blk.99.*"]).stderr(), "");
    let wrong = inspect(&path, &["--tensors", "blk.[0"]);
    assert_eq!(wrong.code(), 2);
    assert!(
        wrong.stderr().contains("invalid value 'blk.[0' for '--tensors <GLOB>'"),
        "{}",
        wrong.stderr()
    );
    assert_eq!(inspect(&path, &["--tensors=*", "--no-tensors"]).code(), 2);
}

/// A template with two lines and a character that a terminal interprets.
const TEMPLATE: &str = "{% for m in messages %}\n\u{1b}[31m\\n";

fn with_values(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let mut writer = phi3_keys();
    writer
        .kv("tokenizer.chat_template", TEMPLATE)
        .kv("tokenizer.ggml.tokens", vec!["a\nb".to_owned(), "c".to_owned()])
        .kv("tokenizer.ggml.scores", vec![0.5_f32, f32::INFINITY])
        .kv("long", "x".repeat(100_000))
        .tensor("t", &[32], GgmlType::F32);
    written(dir, "values.gguf", &writer)
}

#[test]
fn a_key_prints_its_whole_value_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_values(&dir);
    for (key, printed) in [
        ("general.architecture", "phi3\n"),
        ("phi3.block_count", "1\n"),
        ("tokenizer.ggml.scores", "0.5\ninf\n"),
        // An element is one line.
        ("tokenizer.ggml.tokens", "a\\nb\nc\n"),
        ("tokenizer.chat_template", &format!("{TEMPLATE}\n")),
    ] {
        let ran = inspect(&path, &["--key", key]);
        assert_eq!((ran.code(), ran.stdout(), ran.stderr()), (0, printed, ""), "{key}");
    }
    let both = inspect(&path, &["--key=phi3.block_count", "--key=general.architecture"]);
    assert_eq!(both.stdout(), "1\nphi3\n");
    assert_eq!(inspect(&path, &["--key=long"]).stdout().len(), 100_001);

    let keys =
        ["tokenizer.chat_template", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "long"];
    let keys = keys.map(|key| format!("--key={key}"));
    let keys: Vec<_> = keys.iter().map(String::as_str).chain(["--json"]).collect();
    let document = document(&inspect(&path, &keys));
    let expected = json!({
        "schema_version": 1,
        "file": path.to_str().unwrap(),
        "metadata": {
            "tokenizer.chat_template": TEMPLATE,
            "tokenizer.ggml.tokens": ["a\nb", "c"],
            "tokenizer.ggml.scores": [0.5, "inf"],
            "long": "x".repeat(100_000),
        }
    });
    assert_eq!(document, expected);
}

#[test]
fn elements_of_every_type_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = GgufWriter::new();
    writer
        .kv("a", vec![1_u8, 255])
        .kv("b", vec![-1_i8])
        .kv("c", vec![65535_u16])
        .kv("d", vec![-2_i16])
        .kv("e", vec![7_u32])
        .kv("f", vec![-7_i32])
        .kv("g", vec![0.1_f32])
        .kv("h", vec![true, false])
        .kv("i", vec![u64::MAX])
        .kv("j", vec![i64::MIN])
        .kv("k", vec![0.1_f64])
        .kv("l", Vec::<u32>::new());
    let path = written(&dir, "arrays.gguf", &writer);
    let keys: Vec<_> = ('a'..='l').map(|key| format!("--key={key}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let text = inspect(&path, &keys);
    assert_eq!(
        text.stdout().lines().collect::<Vec<_>>(),
        [
            "1",
            "255",
            "-1",
            "65535",
            "-2",
            "7",
            "-7",
            "0.1",
            "true",
            "false",
            "18446744073709551615",
            "-9223372036854775808",
            "0.1"
        ]
    );
}

#[test]
fn an_absent_key_is_wrong_use_and_similar_keys_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_values(&dir);
    for (key, similar) in [
        ("block_count", "similar keys: phi3.block_count"),
        ("tokenizer.chat_templat", "similar keys: tokenizer.chat_template"),
    ] {
        let ran = inspect(&path, &["--key=general.architecture", "--key", key]);
        assert_eq!((ran.code(), ran.stdout()), (2, ""));
        assert!(ran.stderr().contains(&format!("has no key {key}; {similar}")), "{}", ran.stderr());
    }
    let ran = inspect(&path, &["--key", "0"]);
    assert!(ran.stderr().contains("has no key 0\n"), "{}", ran.stderr());
}

#[test]
fn several_files_are_inspected_also_after_one_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.gguf");
    std::fs::write(&text, "no model").unwrap();
    let absent = dir.path().join("absent.gguf");
    let (one, other) = (model_path("fused-f16.gguf"), model_path(MODEL));
    let files = [&one, &text, &absent, &other].map(|path| path.to_str().unwrap());
    let ran = run([&["inspect", "--json"], &files[..]].concat());
    assert_eq!(ran.code(), 3, "the code of the first error");
    let documents = ran.json_lines();
    let names: Vec<_> =
        documents.iter().map(|document| document["file"].as_str().unwrap()).collect();
    assert_eq!(names, [files[0], files[3]]);
    let errors = ["error[GGUF_BAD_MAGIC]", "error[FILE_NOT_FOUND]"];
    assert!(errors.iter().all(|error| ran.stderr().contains(error)), "{}", ran.stderr());

    let ran = run(["inspect", files[0], files[3], "--no-tensors"]);
    let headings: Vec<_> = ran.stdout().lines().filter(|line| line.starts_with("file  ")).collect();
    assert_eq!((ran.code(), headings.len()), (0, 2));
    let ran = run(["inspect", files[0], files[3], "--key=general.architecture"]);
    assert_eq!(ran.stdout(), format!("{}:\nphi3\n\n{}:\nphi3\n", files[0], files[3]));
}

#[test]
fn no_file_that_is_read_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    std::fs::copy(model_path(MODEL), &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    let append = std::fs::OpenOptions::new().append(true).open(&copy).unwrap();
    let model = model_path("fused-f16.gguf");
    let arguments = ["inspect", model.to_str().unwrap(), copy.to_str().unwrap()];
    let ran = Ran::with_stdout(&mut crate::program::program(arguments), append);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr().contains("are the same file"), "{}", ran.stderr());
    assert!(before == std::fs::read(&copy).unwrap());
}
