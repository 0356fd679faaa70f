//! `cargo xtask test-gpu --archive`: puts the GPU tests into a folder that runs without a toolchain.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::loader_binary::{self, copy_stripped, executables};
use crate::workspace::{self, cargo, copy_folder};
use crate::{gpu_tests, toolkit};

const RUNNER: &str = include_str!("gpu_archive/run.sh");

/// The contents of an archive. Packing again replaces all of them.
const TESTS: &str = "tests";
const DATA: &str = "testdata";
const LOADER: &str = "phi3-loader";
const RUN: &str = "run.sh";

/// Builds the GPU tests and copies them into `folder`, with the loader, the test data and a runner.
pub(crate) fn pack(folder: &Path) -> Result<()> {
    clear(folder)?;
    let cuda = toolkit::find_or_bring()?;
    let loader = loader_binary::release(Some(&cuda))?;
    let mut build = cargo(gpu_tests::selection());
    let tests = executables(cuda.apply(build.arg("--no-run")), &["test", "example"])?;
    ensure!(!tests.is_empty(), "cargo built no GPU tests");

    fs::create_dir_all(folder.join(TESTS))?;
    // Symbol names stay for backtraces.
    copy_stripped("--strip-debug", &loader, &folder.join(LOADER))?;
    for (name, path) in &tests {
        copy_stripped("--strip-debug", path, &folder.join(TESTS).join(name))?;
    }
    copy_folder(&workspace::root().join("testdata"), &folder.join(DATA))?;
    let runner = folder.join(RUN);
    fs::write(&runner, RUNNER)?;
    fs::set_permissions(&runner, fs::Permissions::from_mode(0o755))?;

    println!(
        "{} test programs are packed; on a machine with a GPU: sh {}",
        tests.len(),
        runner.display()
    );
    Ok(())
}

/// Empties an existing archive. Refuses a folder that contains anything else.
fn clear(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()));
    };
    for entry in entries {
        let entry = entry?;
        let ours = [TESTS, DATA, LOADER, RUN].iter().any(|name| entry.file_name() == *name);
        ensure!(
            ours,
            "{} holds {:?}, which is not part of an archive: name an empty or a new folder",
            folder.display(),
            entry.file_name()
        );
    }
    for name in [TESTS, DATA] {
        let path = folder.join(name);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}
