//! Where things lie in this workspace, and cargo in it.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let mut root = PathBuf::from(manifest);
    root.pop();
    root
}

/// Where xtask keeps what it brings or makes. Always in the workspace, also where `CARGO_TARGET_DIR`
/// has cargo build elsewhere, because the build script of `cuda-sys` looks for the toolkit here.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// The cargo that runs this program, in the workspace.
pub(crate) fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(root());
    command
}
