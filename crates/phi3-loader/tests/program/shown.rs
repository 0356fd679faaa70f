//! Tests that names and texts from files and users are printed without hidden characters, as text and as JSON.

use crate::common::model_path;
use crate::program::{Ran, program};
use crate::small_model::{TENSORS, phi3_keys};
use gguf_format::write::GgufWriter;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One character of each kind: controls, DEL, bidirectional overrides, and invisible characters.
pub(crate) const HIDDEN: &str = "\u{1b}[2J\u{7f}\u{9b}2J\u{85}\u{202e}\u{2066}\u{200b}\u{feff}\u{3164}\u{115f}\u{ffa0}\u{34f}\
     \u{fe0f}\u{180b}\u{17b4}\u{2800}\u{e0041}";

/// Checks that the output contains, apart from line ends, no character that a terminal interprets or does not
/// display.
#[track_caller]
pub(crate) fn shows_itself(ran: &Ran) {
    for text in [ran.stdout(), ran.stderr()] {
        let hidden = text.chars().find(|&c| c != '\n' && gguf_format::is_unprintable(c));
        assert_eq!(hidden, None, "{text}");
    }
}

/// Returns commands that print the name of a model, as text and as JSON.
fn commands(file: &OsStr) -> Vec<Vec<OsString>> {
    [
        &["inspect"][..],
        &["inspect", "--json"],
        &["plan"],
        &["plan", "--json"],
        &["load", "--device=host", "-vv"],
        &["load", "--device=host", "--json"],
        &["verify"],
        &["verify", "--json"],
    ]
    .iter()
    .map(|command| command.iter().map(OsString::from).chain([file.to_owned()]).collect())
    .collect()
}

#[test]
fn texts_from_a_file_are_escaped_and_restored_from_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = phi3_keys();
    writer.kv("general.name", HIDDEN).kv(format!("key{HIDDEN}"), HIDDEN);
    for (name, dims, ggml_type) in TENSORS {
        writer.tensor(name, dims, ggml_type);
    }
    std::fs::write(&path, writer.to_bytes(|_, data| data.fill(0x11)).unwrap()).unwrap();
    for command in commands(path.as_os_str()) {
        let ran = Ran::of(&mut program(&command));
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        shows_itself(&ran);
    }
    let document =
        &Ran::of(&mut program([OsStr::new("inspect"), OsStr::new("--json"), path.as_os_str()]))
            .json_lines()[0];
    assert_eq!(document["config"]["name"], HIDDEN);
    assert_eq!(document["metadata"][format!("key{HIDDEN}")], HIDDEN);

    let mut unbound = GgufWriter::new();
    unbound.kv("general.architecture", HIDDEN);
    std::fs::write(&path, unbound.to_bytes(|_, _| ()).unwrap()).unwrap();
    for command in commands(path.as_os_str()) {
        shows_itself(&Ran::of(&mut program(&command)));
    }
}

/// Parses bytes that JSON contains as hexadecimal digits.
fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn documents(command: &[OsString], folder: &Path) -> Vec<Value> {
    let ran = Ran::of(program(command).current_dir(folder));
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    shows_itself(&ran);
    ran.json_lines()
}

#[test]
fn file_names_are_escaped_and_restored_from_json() {
    let dir = tempfile::tempdir().unwrap();
    let plain = format!("plain {HIDDEN} 模型 \\xff \"quoted\".gguf");
    let broken = [HIDDEN.as_bytes(), b"\xff\\xfe \x80.gguf"].concat();
    for (name, is_utf8) in [(plain.as_bytes(), true), (&broken, false)] {
        let name = OsStr::from_bytes(name);
        std::fs::copy(model_path("fused-f16.gguf"), dir.path().join(name)).unwrap();
        for command in commands(name) {
            let is_json = command.iter().any(|argument| argument == "--json");
            let ran = Ran::of(program(&command).current_dir(dir.path()));
            assert_eq!(ran.code(), 0, "{}", ran.stderr());
            shows_itself(&ran);
            if !is_json {
                continue;
            }
            let document = &ran.json_lines()[0];
            if is_utf8 {
                assert_eq!(document["file"], name.to_str().unwrap());
                assert_eq!(document.get("file_hex"), None);
            } else {
                assert!(document["file"].as_str().unwrap().contains("\\xff\\\\xfe \\x80"));
                assert_eq!(bytes(&document["file_hex"]), name.as_bytes());
            }
        }
        let inspect = [OsString::from("inspect"), "--json".into(), name.to_owned()];
        let document = &documents(&inspect, dir.path())[0];
        if is_utf8 {
            assert_eq!(document["shards"], json!([name.to_str().unwrap()]));
            assert_eq!(document.get("shards_hex"), None);
        } else {
            assert_eq!(bytes(&document["shards_hex"][0]), name.as_bytes());
        }
        let bench = ["bench", "--device=host", "--repeat=1", "--json"].map(OsString::from);
        let bench = [&bench[..], &[name.to_owned()]].concat();
        let file = &documents(&bench, dir.path())[0]["file"];
        if is_utf8 {
            assert_eq!(
                (&file["path"], file.get("path_hex")),
                (&name.to_str().unwrap().into(), None)
            );
        } else {
            assert_eq!(bytes(&file["path_hex"]), name.as_bytes());
        }
    }
}

#[test]
fn reports_escape_the_names_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [HIDDEN, "svg", "markdown"].map(|name| dir.path().join(name));
    let [model, svg, markdown] = [0, 1, 2].map(|at| paths[at].to_str().unwrap());
    for command in [
        &["synth", model][..],
        &["load", model, "--device=host", "--dump", &format!("{model}.safetensors")],
        &["bench", model, "--device=host", "--repeat=1", "--svg", svg, "--markdown", markdown],
    ] {
        let ran = Ran::of(&mut program(command));
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(ran.stdout().contains("\\u{202e}"), "{}", ran.stdout());
        shows_itself(&ran);
    }
    for file in [svg, markdown] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains(|c| c != '\n' && gguf_format::is_unprintable(c)), "{text}");
    }
}

#[test]
fn messages_escape_the_names_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let name = OsString::from(format!("{HIDDEN}.gguf"));
    let bytes = std::fs::read(model_path("fused-f16.gguf")).unwrap();
    std::fs::write(dir.path().join(&name), &bytes[..100]).unwrap();
    std::fs::create_dir(dir.path().join(format!("folder{HIDDEN}"))).unwrap();
    let folder = OsString::from(format!("folder{HIDDEN}"));
    let good = model_path("fused-f16.gguf");
    let out = |option: &str, path: &OsStr| {
        let mut argument = OsString::from(option);
        argument.push(path);
        vec!["load".into(), good.clone().into(), "--device=host".into(), argument]
    };
    let mut failing = commands(&name);
    failing.extend([vec!["synth".into(), folder.clone()], out("--dump=", &folder)]);
    failing.push(out("--timeline=", OsStr::new(&format!("absent{HIDDEN}/file"))));
    let mut same = out("--dump=", &name);
    same[1] = name.clone();
    failing.push(same);
    for command in failing {
        let ran = Ran::of(program(&command).current_dir(dir.path()));
        assert_ne!(ran.code(), 0, "{command:?}");
        assert!(ran.stderr().contains("\\u{202e}"), "{}", ran.stderr());
        shows_itself(&ran);
    }
}
