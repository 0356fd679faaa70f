//! Checks that files from other sources load correctly. Weights are equal to those of the reference
//! decoder, and logits to those of the reference forward pass. Malformed files get the expected error, and a
//! flipped bit of a header never gives other weights without a report.
//!
//! The files, the expected results and the comparing tools are beside the checkout, in `../shared`. If
//! this folder does not exist, the check is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::strict;
use crate::workspace::cargo;
use crate::{loader_binary, process, workspace};

pub(super) fn check() -> Result<()> {
    let shared = workspace::root().join("../shared");
    let data = shared.join("data");
    if !data.is_dir() {
        eprintln!("there are no reference files in {}: nothing to compare", data.display());
        return Ok(());
    }
    let models = models_in(&data)?;
    ensure!(!models.is_empty(), "{} holds no GGUF file", data.display());

    let loader = loader_binary::executable(strict(&mut loader_binary::release_build()))?;
    check_weights(&shared, &loader, &models)?;
    check_logits(&data, &models)?;
    process::run(Command::new("python3").arg(shared.join("tools/check_cases.py")).arg(&loader))?;
    let survey = ["run", "--release", "--locked", "--package", "model-phi3"];
    process::run(cargo(survey).args(["--example", "bit_flips", "--"]).args(&models))
}

/// Loads every file with both storages, and compares each dump with the expected result.
fn check_weights(shared: &Path, loader: &Path, models: &[PathBuf]) -> Result<()> {
    let expected = shared.join("data/expected.json");
    let dump = workspace::target().join("conformance.safetensors");
    for model in models {
        for (storage, compare_as) in [("f16", None), ("native", Some("--native"))] {
            process::run(
                Command::new(loader)
                    .arg("load")
                    .arg(model)
                    .args(["--device", "host", "--storage", storage, "--dump"])
                    .arg(&dump),
            )?;
            process::run(
                Command::new("python3")
                    .arg(shared.join("tools/check_dump.py"))
                    .arg(&expected)
                    .arg(model)
                    .arg(&dump)
                    .args(compare_as),
            )?;
        }
    }
    eprintln!("{} files agree with the reference, in both forms", models.len());
    Ok(fs::remove_file(dump)?)
}

/// Computes with the weights of every file, and compares the logits with the reference. A step before has already
/// compiled the loader with this profile and these features.
fn check_logits(data: &Path, models: &[PathBuf]) -> Result<()> {
    let logits = ["run", "--locked", "--package", "loader", "--example", "logits", "--", "compare"];
    process::run(strict(cargo(logits).arg(data.join("logits.json")).args(models)))
}

fn models_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut models = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            models.push(path);
        }
    }
    models.sort();
    Ok(models)
}
