//! The format of the C++ and CUDA sources.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, wheels, workspace};

const EXTENSIONS: [&str; 5] = ["hpp", "h", "cpp", "cu", "cuh"];

/// Installs the pinned clang-format and checks every source below `cuda/` with it.
pub(super) fn check() -> Result<()> {
    let tools = workspace::target().join("clang-format");
    wheels::install(&workspace::root().join("xtask/clang-format.txt"), &tools)?;
    let mut files = workspace::files_below(&workspace::root().join("cuda"))?;
    files.retain(|file| {
        file.extension().is_some_and(|found| EXTENSIONS.iter().any(|e| found == *e))
    });
    ensure!(!files.is_empty(), "there are no C++ sources to check");
    let mut format = Command::new(tools.join("clang_format/data/bin/clang-format"));
    format
        .args(["--dry-run", "--Werror"])
        .args(files.iter().filter_map(|file| file.strip_prefix(workspace::root()).ok()))
        .current_dir(workspace::root());
    process::run(&mut format).with_context(|| {
        format!("`{} -i FILE` mends it", Path::new(format.get_program()).display())
    })
}
