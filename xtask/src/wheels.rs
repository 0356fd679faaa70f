//! Installs tools from Python wheels, for machines that do not have them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The requirements of the last installation. If they have not changed, the folder is up to date.
const STAMP: &str = "requirements.txt";

/// Installs the wheels that `requirements` pins by version and hash into `destination`.
///
/// If that has already been done, it does nothing. If an installation is interrupted, `destination` is
/// unchanged.
pub(crate) fn install(requirements: &Path, destination: &Path) -> Result<()> {
    let wanted = fs::read(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    if fs::read(destination.join(STAMP)).is_ok_and(|found| found == wanted) {
        return Ok(());
    }

    let partial = destination.with_extension("partial");
    remove(&partial)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--require-hashes"])
        .args(["--no-compile", "--disable-pip-version-check", "--no-input"])
        .args(["--root-user-action=ignore", "--target"])
        .arg(&partial)
        .arg("--requirement")
        .arg(requirements);
    process::run(process::to_stderr(&mut pip))
        .context("wheels are installed with Python 3 and its pip (Debian: python3-pip)")?;
    fs::write(partial.join(STAMP), wanted)?;

    remove(destination)?;
    fs::rename(&partial, destination)
        .with_context(|| format!("cannot move the wheels to {}", destination.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}
