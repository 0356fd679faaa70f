//! Compares the fields of all JSON output and their types with a committed list. A change of a name or a type
//! would break users' programs.

use crate::common::model_path;
use crate::program::run;
use crate::resident::{KeeperProcess, finished, resident};
use keeper::Store;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// If this environment variable is set, the test writes the list.
const WRITE: &str = "PHI3_LOADER_WRITE_DOCS";

/// Lists `command.path: type` for every value in a document. The elements of a list have the path of the
/// list followed by `[]`.
fn fields(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(elements) => {
            for element in elements {
                fields(&format!("{path}[]"), element, found);
            }
            "list"
        }
        Value::Object(members) => {
            for (name, member) in members {
                fields(&format!("{path}.{name}"), member, found);
            }
            "object"
        }
    };
    found.insert(format!("{path}: {name}"));
}

#[test]
fn the_fields_agree_with_the_committed_list() {
    let dir = tempfile::tempdir().unwrap();
    let synthetic = dir.path().join("synthetic.gguf");
    let synthetic = synthetic.to_str().unwrap();
    assert_eq!(run(["synth", synthetic, "--type=q4_k_m"]).code(), 0);
    // The file has a gap after its tensors, which gives a warning, and a tensor of zeros.
    let warned = dir.path().join("warned.gguf");
    let mut bytes = std::fs::read(model_path("fused-f16.gguf")).unwrap();
    let tail = bytes.len() - 4096;
    bytes[tail..].fill(0);
    bytes.extend([0; 4096]);
    std::fs::write(&warned, bytes).unwrap();
    let warned = warned.to_str().unwrap();

    let mut found = BTreeSet::new();
    for (command, file, more) in [
        ("inspect", synthetic, &[][..]),
        ("inspect", warned, &[]),
        ("plan", synthetic, &[]),
        ("plan", warned, &[]),
        ("load", synthetic, &["--device=host"]),
        ("load", warned, &["--device=host"]),
        ("load", synthetic, &["--device=host,host"]),
        ("verify", synthetic, &[]),
        ("bench", warned, &["--device=host", "--repeat=1", "--cold", "--kernels"]),
    ] {
        let ran = run([&[command, file, "--json"], more].concat());
        assert_eq!(ran.code(), 0, "{command}: {}", ran.stderr());
        for document in ran.json_lines() {
            let event = document["event"].as_str().map(|event| format!(".{event}"));
            fields(&format!("{command}{}", event.unwrap_or_default()), &document, &mut found);
        }
    }
    let keeper = KeeperProcess::start(&[]);
    let finished = finished(Path::new(synthetic), &keeper.socket(), &[]);
    fields("load.finished", &finished, &mut found);
    let mut add = |command: &str| {
        for document in resident(&keeper.socket(), [command, "--json"]).json_lines() {
            fields(&format!("resident.{command}"), &document, &mut found);
        }
    };
    add("list");
    add("verify");
    // With another layout, the entry is refused, so that its result has an error.
    let mut connection = keeper.connect();
    let key = finished["resident_key"].as_str().unwrap().parse().unwrap();
    let mut entry = connection.fetch(&key).unwrap().unwrap();
    entry.manifest.plan_digest = [0; 16];
    connection.publish(&entry).unwrap();
    add("verify");
    for document in run(["verify", warned, "--json"]).json_lines() {
        fields("verify", &document, &mut found);
    }
    for document in run(["load", "/no/such/file", "--json"]).json_lines() {
        fields("load.failed", &document, &mut found);
    }
    // The keys of a file's metadata are not fields of this program. The fields about the page cache and the
    // null values depend on the machine.
    found.retain(|field| {
        let is_of_machine = field.contains(".cached") || field.ends_with(": null");
        !field.starts_with("inspect.metadata.") && !is_of_machine
    });
    let found: String = found.into_iter().map(|field| field + "\n").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/json_schema.txt");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, listed, "if the change is intended, set {WRITE} and commit the list");
}
