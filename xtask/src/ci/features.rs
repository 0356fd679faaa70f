//! Checks each crate with each of its features alone, and without features.

use anyhow::{Context, Result};
use serde_json::Value;

use super::strict;
use crate::process;
use crate::workspace::cargo;

/// The CUDA feature has its own step, because it needs nvcc.
const ELSEWHERE: [&str; 2] = ["cuda", "default"];

/// Runs clippy on the libraries and programs, and the unit tests of the loader with only the features that these
/// tests enable.
pub(super) fn check() -> Result<()> {
    for (package, feature) in combinations()? {
        let mut clippy = cargo(["clippy", "--locked", "--no-default-features"]);
        clippy.args(["--package", &package]);
        if let Some(feature) = feature {
            clippy.args(["--features", &feature]);
        }
        process::run(strict(clippy.args(["--", "-D", "warnings"])))?;
    }
    let tests = ["test", "--locked", "--package", "loader", "--lib", "--test", "names"];
    process::run(strict(&mut cargo(tests)))
}

/// Returns every package of the workspace, without features and with each feature.
fn combinations() -> Result<Vec<(String, Option<String>)>> {
    let metadata = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    let metadata: Value = serde_json::from_str(&process::output(&mut cargo(metadata))?)?;
    let mut combinations = Vec::new();
    for package in metadata["packages"].as_array().context("no list of packages")? {
        let name = package["name"].as_str().context("a package without a name")?;
        let features = package["features"].as_object().context("a package without features")?;
        let features = features.keys().filter(|feature| !ELSEWHERE.contains(&feature.as_str()));
        let features = [None].into_iter().chain(features.cloned().map(Some));
        combinations.extend(features.map(|feature| (name.to_owned(), feature)));
    }
    Ok(combinations)
}
