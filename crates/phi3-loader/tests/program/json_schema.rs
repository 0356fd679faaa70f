//! Compares the fields of all JSON output and their types with the tables of `docs/json.md`. A change of a name or a
//! type would break users' programs.

use crate::common::model_path;
use crate::program::run;
use crate::resident::{KeeperProcess, finished, resident};
use keeper::Store;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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

/// A table of the document: its rows are field and type.
type Table<'a> = Vec<(&'a str, &'a str)>;

/// Returns the tables of the document by the headings above them.
fn tables(document: &str) -> BTreeMap<&str, Table<'_>> {
    let mut tables = BTreeMap::new();
    let mut heading = "";
    for line in document.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            heading = name;
        }
        if let Some((field, rest)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | "))
            && let Some((kind, _)) = rest.split_once(" | ")
            && !heading.is_empty()
        {
            tables.entry(heading).or_insert_with(Vec::new).push((field, kind));
        }
    }
    tables
}

/// The documented fields: `command.path: type`, as [`fields`] lists them.
#[derive(Default)]
struct Documented {
    all: BTreeSet<String>,
    /// The paths that can be null or absent.
    optional: BTreeSet<String>,
}

impl Documented {
    fn add_table(&mut self, path: &str, rows: &Table<'_>, tables: &BTreeMap<&str, Table<'_>>) {
        self.all.insert(format!("{path}: object"));
        for (field, kind) in rows {
            self.add(&format!("{path}.{field}"), kind, tables);
        }
    }

    fn add(&mut self, path: &str, kind: &str, tables: &BTreeMap<&str, Table<'_>>) {
        if let Some(kind) = kind.strip_suffix(" or null") {
            self.optional.insert(path.to_owned());
            self.all.insert(format!("{path}: null"));
            self.add(path, kind, tables);
        } else if let Some(kind) = kind.strip_suffix(", optional") {
            self.optional.insert(path.to_owned());
            self.add(path, kind, tables);
        } else if let Some(kind) = kind.strip_prefix("list of ") {
            self.all.insert(format!("{path}: list"));
            self.add(&format!("{path}[]"), kind, tables);
        } else if let Some((name, _)) = kind.strip_prefix('[').and_then(|kind| kind.split_once(']'))
        {
            let named = |heading: &&str| heading.eq_ignore_ascii_case(name);
            let heading =
                tables.keys().copied().find(named).unwrap_or_else(|| panic!("no table for {kind}"));
            self.add_table(path, &tables[heading], tables);
        } else {
            assert!(["string", "number", "bool", "object"].contains(&kind), "{path}: {kind}");
            self.all.insert(format!("{path}: {kind}"));
        }
    }
}

/// Reads the documented fields of all documents.
fn documented() -> Documented {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    let text = std::fs::read_to_string(path).unwrap();
    let tables = tables(text.split_once("## Fields").unwrap().1);
    let mut documented = Documented::default();
    for (heading, rows) in tables.iter().filter(|(heading, _)| heading.starts_with('`')) {
        let name = heading.replace('`', "").replace(": event ", ".").replace(' ', ".");
        documented.add_table(&name, rows, &tables);
        documented.all.insert(format!("{name}.schema_version: number"));
    }
    documented
}

#[test]
fn the_fields_agree_with_the_document() {
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

    let nvfp4 = model_path("nvfp4-scales.gguf");
    let nvfp4 = nvfp4.to_str().unwrap();

    let mut found = BTreeSet::new();
    for command in [
        &["inspect", synthetic][..],
        &["inspect", warned],
        &["plan", synthetic],
        &["plan", warned, "--memory=1GB"],
        &["plan", nvfp4],
        &["load", synthetic, "--device=host"],
        &["load", warned, "--device=host"],
        &["load", synthetic, "--device=host,host"],
        &["verify", synthetic],
        &["devices"],
        &["bench", warned, "--device=host", "--repeat=1", "--cold", "--kernels"],
    ] {
        let ran = run([command, &["--json"]].concat());
        assert_eq!(ran.code(), 0, "{command:?}: {}", ran.stderr());
        let command = command[0];
        for document in ran.json_lines() {
            let event = document["event"].as_str().map(|event| format!(".{event}"));
            fields(&format!("{command}{}", event.unwrap_or_default()), &document, &mut found);
        }
    }
    let key = ["inspect", synthetic, "--key=general.architecture", "--json"];
    for document in run(key).json_lines() {
        fields("inspect.--key", &document, &mut found);
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
    // The keys of a file's metadata are not fields of this program.
    found.retain(|field| !field.starts_with("inspect.") || !field.contains("metadata."));

    let documented = documented();
    let unknown: Vec<_> = found.difference(&documented.all).collect();
    assert!(unknown.is_empty(), "not in docs/json.md: {unknown:#?}");
    let has_members = |path: &str| {
        ["object", "list"].iter().any(|kind| found.contains(&format!("{path}: {kind}")))
    };
    let missing: Vec<_> = documented
        .all
        .difference(&found)
        .filter(|field| {
            let path = field.split_once(": ").unwrap().0;
            let parent = path.strip_suffix("[]").or_else(|| Some(path.rsplit_once('.')?.0));
            // A list can be empty. The fields of an object that is null or absent are not there either.
            let is_possible = documented.optional.contains(path) || path.ends_with("[]");
            !is_possible && parent.is_none_or(has_members)
        })
        .collect();
    assert!(missing.is_empty(), "only in docs/json.md: {missing:#?}");
}
