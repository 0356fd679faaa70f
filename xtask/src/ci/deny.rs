//! Checks licences, sources and known vulnerabilities of dependencies against `deny.toml`.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// Runs cargo-deny if it is installed; otherwise reports that it is not.
pub(super) fn check() -> Result<()> {
    if !process::is_installed("cargo-deny") {
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
