//! Rules of this repository that no compiler or lint checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The largest size of a text file in bytes. Larger files are models that a user put here.
const LARGEST_TEXT: u64 = 4 << 20;

/// Returns every text file of the repository, by its relative path. Files that git ignores are left out: build
/// outputs, installed tools and folders of editors. Git does not have to be installed.
fn sources() -> BTreeMap<String, String> {
    let walk = ignore::WalkBuilder::new(root())
        .hidden(false)
        .require_git(false)
        .max_filesize(Some(LARGEST_TEXT))
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let files = walk.map(|entry| entry.expect("a readable folder").into_path());
    let text = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("a path below the root").display().to_string();
        Some((name, fs::read_to_string(&path).ok()?))
    };
    // Skip symbolic links: their targets are listed under their own names.
    let files = files.filter(|path| path.is_file() && !path.is_symlink());
    let found: BTreeMap<_, _> = files.filter_map(text).collect();
    assert!(found.contains_key(".ci/run") && found.contains_key("xtask/tests/tidy.rs"));
    found
}

/// Returns the lines in which `wrong` finds something, as `file:number: line`.
fn lines_where(
    files: &BTreeMap<String, String>,
    wrong: impl Fn(&str, &str) -> bool,
) -> Vec<String> {
    let lines = files.iter().flat_map(|(file, text)| {
        text.lines().enumerate().map(move |(index, line)| (file, index + 1, line))
    });
    lines
        .filter(|(file, _, line)| wrong(file, line))
        .map(|(file, number, line)| format!("{file}:{number}: {}", line.trim()))
        .collect()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = [
        ("gguf-format", vec![]),
        ("model-phi3", vec!["gguf-format"]),
        ("cuda-sys", vec![]),
        ("keeper", vec![]),
        ("loader", vec!["cuda-sys", "gguf-format", "keeper", "model-phi3"]),
        ("phi3-loader", vec!["cuda-sys", "gguf-format", "keeper", "loader", "model-phi3"]),
        ("xtask", vec![]),
    ]
    .into_iter()
    .map(|(name, dependencies)| (name, dependencies.into_iter().collect()))
    .collect();

    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        let allowed_here = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is new: say here which siblings it may depend on"));
        for dependency in package["dependencies"].as_array().expect("a list") {
            let dependency = dependency["name"].as_str().expect("a name");
            // A crate's tests may depend on the crate itself, with a feature.
            assert!(
                dependency == name
                    || !allowed.contains_key(dependency)
                    || allowed_here.contains(dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn versions_are_stated_in_the_workspace_alone() {
    for package in packages() {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let text = fs::read_to_string(manifest).expect("a manifest");
        let mut in_dependencies = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && !line.is_empty() && !line.starts_with('#') {
                let packed: String = line.split_whitespace().collect();
                assert!(
                    packed.contains("workspace=true"),
                    "{manifest}: `{line}` should be taken from the workspace's table"
                );
            }
        }
    }
}

#[test]
fn every_crate_has_complete_package_metadata() {
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        if name == "xtask" {
            continue;
        }
        for field in ["description", "license", "readme", "rust_version"] {
            assert!(package[field].is_string(), "{name} has no {field}");
        }
        for field in ["keywords", "categories"] {
            let words = package[field].as_array().expect("a list");
            assert!((1..=5).contains(&words.len()), "{name}: {field} {words:?}");
        }
        for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            assert!(root().join("crates").join(name).join(file).is_file(), "{name} has no {file}");
        }
    }
}

/// Cargo refuses two packages with the same `links`, and a linker mixes up static libraries of the same name.
/// The prefix of the project keeps them apart from those of other packages.
#[test]
fn names_that_native_code_is_linked_by_start_with_the_project() {
    const PREFIX: &str = "phi3_";
    let packages = packages();
    let links: Vec<_> = packages.iter().filter_map(|package| package["links"].as_str()).collect();
    assert!(links.contains(&"phi3_loader"), "`links` of crate loader is a public name: {links:?}");

    let mut libraries = Vec::new();
    for (_, text) in sources().iter().filter(|(file, _)| file.ends_with("/build.rs")) {
        let calls = text.split(".compile(\"").skip(1).filter_map(|rest| rest.split('"').next());
        libraries.extend(calls.map(str::to_owned));
    }
    assert!(!libraries.is_empty(), "no build script makes a library");
    for name in links.into_iter().chain(libraries.iter().map(String::as_str)) {
        assert!(name.starts_with(PREFIX), "`{name}` should start with {PREFIX}");
    }
}

/// If two libraries define one C++ name, a linker takes either definition without a message.
#[test]
fn cpp_names_are_in_the_namespace_of_the_project() {
    let mut files = sources();
    files.retain(|file, _| file.starts_with("cuda/"));
    let outer = |text: &str| {
        let found = text.lines().find(|line| line.starts_with("namespace "));
        found.map(str::to_owned)
    };
    let namespaces: BTreeMap<_, _> =
        files.iter().filter_map(|(file, text)| Some((file, outer(text)?))).collect();
    assert!(namespaces.len() > 50, "few C++ files were found: {namespaces:?}");
    for (file, namespace) in namespaces {
        assert!(namespace.starts_with("namespace phi3::transfer"), "{file}: {namespace}");
    }
    let without = files.iter().find(|(file, text)| file.ends_with(".cpp") && outer(text).is_none());
    assert!(without.is_none(), "no namespace in {without:?}");
}

#[test]
fn libraries_forbid_or_deny_unsafe_code() {
    let libraries = ["gguf-format", "model-phi3", "keeper", "loader"];
    for library in libraries {
        let text = read(&format!("crates/{library}/src/lib.rs"));
        assert!(
            ["#![forbid(unsafe_code)]", "#![deny(unsafe_code)]"].iter().any(|a| text.contains(a)),
            "{library} neither forbids nor denies unsafe code"
        );
    }
    let mut files = sources();
    files.retain(|file, _| libraries.iter().any(|l| file.starts_with(&format!("crates/{l}/src/"))));
    let exempts = |line: &&str| line.contains("unsafe_code") && !line.starts_with("#![");
    let exemptions: Vec<_> = files
        .iter()
        .flat_map(|(file, text)| text.lines().filter(exempts).map(move |_| file.as_str()))
        .collect();
    // For the module that maps files, and for the one that takes descriptors of systemd.
    assert_eq!(exemptions, ["crates/gguf-format/src/lib.rs", "crates/keeper/src/systemd.rs"]);
}

#[test]
fn only_the_bridge_includes_rust_headers() {
    let bridge = ["cuda/include/transfer/bridge.hpp", "cuda/src/bridge.cpp"];
    let mut files = sources();
    files.retain(|file, _| file.starts_with("cuda/") && !bridge.contains(&file.as_str()));
    assert!(!files.is_empty(), "there is no C++ to check");
    let found = lines_where(&files, |_, line| {
        line.contains("#include") && (line.contains("rust/cxx.h") || line.contains(".rs.h"))
    });
    assert!(found.is_empty(), "nvcc and the engine need no Rust types:\n{}", found.join("\n"));
}

#[test]
fn no_comment_contains_a_to_do_mark() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let found = lines_where(&sources(), |file, line| {
        let is_code = [".rs", ".cpp", ".hpp", ".cu", ".cuh", ".sh", ".py", ".md", ".toml"]
            .iter()
            .any(|extension| file.ends_with(extension));
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        is_code && words.any(|word| marks.contains(&word))
    });
    assert!(found.is_empty(), "file an issue instead:\n{}", found.join("\n"));
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let folders = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let found =
        lines_where(&sources(), |_, line| folders.iter().any(|folder| line.contains(folder)));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_changelog_has_a_section_for_unreleased_changes() {
    assert!(read("CHANGELOG.md").lines().any(|line| line == "## [Unreleased]"));
}

#[test]
fn links_between_documents_have_existing_targets() {
    let mut broken = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| file.ends_with(".md")) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let folder = Path::new(file).parent().expect("a file in a folder");
            if !link.contains("://") && !root().join(folder).join(path).exists() {
                broken.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_architecture_names_every_crate_and_only_files_that_exist() {
    let text = read("docs/architecture.md");
    let crates = packages();
    for name in crates.iter().map(|package| package["name"].as_str().expect("a name")) {
        assert!(text.contains(name), "docs/architecture.md does not mention {name}");
    }
    let files = sources();
    let exists = |name: &&str| root().join(name).exists() || is_among(&files, name);
    let missing: Vec<_> = file_names(&text).filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "docs/architecture.md names what does not exist: {missing:?}");
}

/// Every source file of a crate or of `cuda/` has a place in the code map. A file of the C++ tree is named with
/// or without its suffix. The map names two folders as a whole.
#[test]
fn the_architecture_names_every_source_file() {
    const FOLDERS: [&str; 2] = ["/transfer/decode/", "/phi3-loader/src/bench/"];
    let text = read("docs/architecture.md");
    let named: Vec<_> = text.split('`').skip(1).step_by(2).collect();
    let is_named = |file: &str| {
        let (stem, _) = file.rsplit_once('.').unwrap_or((file, ""));
        named.iter().any(|name| {
            let ends = |path: &str| path == *name || path.ends_with(&format!("/{name}"));
            ends(file) || file.starts_with("cuda/") && ends(stem)
        })
    };
    let missing: Vec<_> = sources()
        .into_keys()
        .filter(|file| file.starts_with("crates/") || file.starts_with("cuda/"))
        .filter(|file| {
            let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
            let is_source =
                [".rs", ".cpp", ".hpp", ".cu", ".cuh"].iter().any(|end| name.ends_with(end));
            let is_ours = file.starts_with("cuda/") || folder.contains("/src");
            is_source && is_ours && !["lib.rs", "main.rs"].contains(&name)
        })
        .filter(|file| !is_named(file) && !FOLDERS.iter().any(|folder| file.contains(folder)))
        .collect();
    assert!(missing.is_empty(), "docs/architecture.md does not name {missing:#?}");
}

/// Returns the words in backquotes that are file names: they have a suffix or contain a slash.
fn file_names(text: &str) -> impl Iterator<Item = &str> {
    const SUFFIXES: [&str; 9] = [".rs", ".cpp", ".hpp", ".cu", ".cuh", ".h", ".md", ".toml", ".py"];
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        let is_path = word.contains('/') && !word.contains([' ', ':', '(', '<']);
        is_path && !word.starts_with('/') || SUFFIXES.iter().any(|suffix| word.ends_with(suffix))
    })
}

/// Returns whether there is a file (with or without its suffix) or a folder with this name, or a path that ends
/// with it.
fn is_among(files: &BTreeMap<String, String>, name: &str) -> bool {
    let end = format!("/{}", name.trim_end_matches('/'));
    files.keys().map(|file| format!("/{file}")).any(|file| {
        file.ends_with(&end)
            || file.contains(&format!("{end}/"))
            || file.contains(&format!("{end}."))
    })
}

#[test]
fn every_wheel_is_pinned_by_hash() {
    for list in ["xtask/cuda-toolkit.txt", "xtask/clang-format.txt"] {
        let text = read(list).replace("\\\n", " ");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.contains("==") && line.contains("--hash=sha256:"), "{list}: {line}");
        }
    }
}
