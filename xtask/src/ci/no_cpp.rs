//! The promise that the parser and the model need no C++ compiler.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::workspace::{self, cargo};

/// Builds both with every C++ compiler replaced by one that fails. `cc` stays: Rust links with it.
pub(super) fn check() -> Result<()> {
    let folder = workspace::target().join("no-cpp");
    let stubs = folder.join("bin");
    fs::create_dir_all(&stubs)?;
    for name in ["c++", "g++", "clang++"] {
        let stub = stubs.join(name);
        fs::write(&stub, "#!/bin/sh\necho 'a C++ compiler was called' >&2\nexit 1\n")?;
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([stubs].into_iter().chain(env::split_paths(&path)))?;

    // A target folder of its own: build scripts that ran with a compiler count for nothing here.
    let target: PathBuf = folder.join("target");
    process::run(
        cargo(["build", "--locked", "--package", "gguf-format", "--package", "model-phi3"])
            .arg("--target-dir")
            .arg(target)
            .env("PATH", path)
            .env("CXX", "false"),
    )
}
