//! The licences of the code of others in the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process;
use crate::workspace::{self, cargo};

/// A crate of a registry that is linked into the program.
pub(super) struct Linked {
    /// Its name and version.
    name: String,
    licence: String,
    pub(super) folder: PathBuf,
}

/// Returns the crates that are linked into the program, sorted by name. `metadata` is cargo's.
pub(super) fn linked_crates(metadata: &Value, with_cuda: bool) -> Result<Vec<Linked>> {
    let folders = folders_of_crates(metadata)?;
    let mut tree = cargo(["tree", "--locked", "--package", "phi3-loader", "--prefix", "none"]);
    tree.args(["--edges", "normal,no-proc-macro", "--format", "{p}|{l}|"]);
    if with_cuda {
        tree.args(["--features", "cuda"]);
    }
    let tree = process::output(&mut tree)?;
    // After the second `|` is a mark of the crates that the tree has more than once.
    let crates: BTreeSet<_> =
        tree.lines().filter_map(|line| line.rsplit_once('|')?.0.split_once('|')).collect();
    // A crate of this workspace is followed by its folder in parentheses.
    let of_others = crates.into_iter().filter(|(name, _)| !name.contains('('));
    of_others
        .map(|(name, licence)| {
            let folder = folders.get(name).with_context(|| format!("{name} has no folder"))?;
            Ok(Linked { name: name.into(), licence: licence.into(), folder: folder.clone() })
        })
        .collect()
}

/// Returns the folders of all crates, by name and version.
fn folders_of_crates(metadata: &Value) -> Result<BTreeMap<String, PathBuf>> {
    let packages = metadata["packages"].as_array().context("no list of packages")?;
    let folder = |package: &Value| {
        let name = format!("{} v{}", package["name"].as_str()?, package["version"].as_str()?);
        Some((name, Path::new(package["manifest_path"].as_str()?).parent()?.to_owned()))
    };
    Ok(packages.iter().filter_map(folder).collect())
}

/// Writes the licences of the crates, of Rust's library and of CUDA's.
pub(super) fn write(folder: &Path, crates: &[Linked], with_cuda: bool) -> Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join("crates.txt"), texts(crates)?)?;
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    fs::copy(&library, folder.join("rust-library.html"))
        .with_context(|| format!("cannot copy {}", library.display()))?;
    if with_cuda {
        fs::write(
            folder.join("cuda.txt"),
            "The program contains the CUDA runtime (libcudart_static) of NVIDIA, under the licence\n\
             https://docs.nvidia.com/cuda/eula/\n",
        )?;
    }
    Ok(())
}

/// Returns the licences of all crates, and each text once.
fn texts(crates: &[Linked]) -> Result<String> {
    let mut out = "The program contains these crates of https://crates.io:\n\n".to_owned();
    let mut names_of_texts = BTreeMap::<String, Vec<&str>>::new();
    for Linked { name, licence, folder } in crates {
        writeln!(out, "{name}: {licence}")?;
        let files = workspace::files_below(folder)?;
        let files: Vec<_> = files.iter().filter(|file| is_licence(folder, file)).collect();
        ensure!(!files.is_empty(), "{} has no licence file", folder.display());
        for file in files {
            let text = String::from_utf8_lossy(&fs::read(file)?).trim().replace("\r\n", "\n");
            let names = names_of_texts.entry(text).or_default();
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let mut texts: Vec<_> = names_of_texts.into_iter().collect();
    texts.sort_by(|(_, one), (_, other)| one.cmp(other));
    for (text, names) in texts {
        write!(out, "\n{}\n{}:\n\n{text}\n", "=".repeat(80), names.join(", "))?;
    }
    Ok(out)
}

/// Returns whether a file of a crate's folder is a licence or a notice that must go with it.
fn is_licence(folder: &Path, file: &Path) -> bool {
    const STARTS: [&str; 6] = ["licen", "copying", "copyright", "notice", "unlicense", "authors"];
    let name = file.strip_prefix(folder).unwrap_or(file).to_string_lossy().to_lowercase();
    STARTS.iter().any(|start| name.starts_with(start)) && !name.ends_with(".rs")
}

#[cfg(test)]
mod tests {
    use super::is_licence;
    use std::path::Path;

    #[test]
    fn licences_are_found_at_the_top_of_a_crate_and_in_folders_of_them() {
        let found = |file: &str| is_licence(Path::new("one"), &Path::new("one").join(file));
        for file in ["LICENSE-MIT", "license.md", "COPYING", "NOTICE", "LICENSES/MIT.txt"] {
            assert!(found(file), "{file}");
        }
        for file in ["README.md", "src/license.rs", "licence.rs", "src/LICENSE"] {
            assert!(!found(file), "{file}");
        }
    }
}
