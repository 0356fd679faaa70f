//! Checks licences, sources and known vulnerabilities of dependencies against `deny.toml`.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// Runs cargo-deny if it is installed; otherwise reports that it is not.
pub(super) fn check() -> Result<()> {
    if !is_installed() {
        eprintln!("skipped: `cargo install cargo-deny --locked` brings what this asks");
        return Ok(());
    }
    process::run(&mut cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    // Without a network, the list of vulnerabilities cannot be downloaded. This is not a failure of the check.
    if process::run(&mut cargo(["deny", "fetch", "db"])).is_err() {
        eprintln!("advisories were not checked: their database cannot be fetched here");
        return Ok(());
    }
    process::run(&mut cargo(["deny", "--locked", "check", "--disable-fetch", "advisories"]))
}

fn is_installed() -> bool {
    Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
