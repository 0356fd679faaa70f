//! The files of the `cuda/` tree that a build compiles.
//!
//! `src/` is host C++ for every build, except `src/cuda/`, which includes CUDA's headers. `kernels/` is for
//! nvcc. All three may contain folders.

use std::io;
use std::path::{Path, PathBuf};

/// Source files, sorted so that equal trees give equal archives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// C++ that every build compiles.
    pub(crate) host: Vec<PathBuf>,
    /// C++ that calls the CUDA runtime.
    pub(crate) runtime: Vec<PathBuf>,
    /// CUDA kernels, for nvcc.
    pub(crate) kernels: Vec<PathBuf>,
}

impl Sources {
    /// Leaves out the files that only measure: their names start with `measure`.
    pub(crate) fn without_measuring(mut self) -> Self {
        for files in [&mut self.host, &mut self.runtime] {
            files.retain(|file| {
                !file
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"measure"))
            });
        }
        self
    }

    /// Collects the sources below `tree`.
    pub(crate) fn collect(tree: &Path) -> io::Result<Self> {
        let (runtime, host) = files_below(&tree.join("src"), "cpp")?
            .into_iter()
            .partition(|file| file.starts_with(tree.join("src/cuda")));
        let kernels = files_below(&tree.join("kernels"), "cu")?;
        Ok(Self { host, runtime, kernels })
    }
}

/// Returns the object file for `kernel` in `out`. Files of equal name in different folders get different
/// objects.
pub(crate) fn object_path(kernel: &Path, kernels: &Path, out: &Path) -> PathBuf {
    let relative = kernel.strip_prefix(kernels).unwrap_or(kernel);
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    out.join(parts.join("-")).with_extension("cu.o")
}

fn files_below(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
