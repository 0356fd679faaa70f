//! Finds a CUDA toolkit: nvcc, its headers and the static runtime library.
//!
//! The build script, its tests and `cargo xtask` share this file, so that all find the same toolkit.
//! Nothing here reads the environment; callers pass it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Variables with a toolkit's folder, in the order of the search.
pub(crate) const HOME_VARIABLES: [&str; 3] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];

/// The places to search.
pub(crate) struct Search {
    /// `NVCC`. If it is set, no other place is searched: a wrong value is an error.
    pub(crate) nvcc: Option<OsString>,
    /// The [`HOME_VARIABLES`] that are set.
    pub(crate) homes: Vec<(&'static str, PathBuf)>,
    /// `PATH`.
    pub(crate) path: OsString,
    /// Folders where toolkits are usually installed. They are searched last.
    pub(crate) usual: Vec<PathBuf>,
    /// Cargo's name for the target's architecture: `x86_64`, `aarch64`.
    pub(crate) target_arch: String,
}

impl Search {
    /// Collects the places from the environment, for a workspace at `workspace`.
    pub(crate) fn new(
        variable: impl Fn(&str) -> Option<OsString>,
        workspace: &Path,
        target_arch: &str,
    ) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        Self {
            nvcc: set("NVCC"),
            homes: HOME_VARIABLES
                .into_iter()
                .filter_map(|name| Some((name, PathBuf::from(set(name)?))))
                .collect(),
            path: set("PATH").unwrap_or_default(),
            usual: vec![
                PathBuf::from("/usr/local/cuda"),
                PathBuf::from("/opt/cuda"),
                workspace.join("target/cuda-toolkit/nvidia/cu13"),
            ],
            target_arch: target_arch.to_owned(),
        }
    }

    /// Returns the first toolkit, in the order of the fields. If it is missing or incomplete, returns all
    /// places that were tried.
    pub(crate) fn find(&self) -> Result<Toolkit, NotFound> {
        let nvcc = self.find_nvcc()?;
        let roots = self.roots_of(&nvcc);
        let include = first_with(
            "the CUDA headers",
            "cuda_runtime.h",
            &folders(&roots, &self.include_folders()),
        )?;
        let library = first_with(
            "the static CUDA runtime",
            "libcudart_static.a",
            &folders(&roots, &self.library_folders()),
        )?;
        // CUDA 13 moved `nv/target`, which cuda_fp16.h includes, one level down. nvcc finds it there; a
        // host compiler needs the folder.
        let cccl = include.join("cccl");
        let mut includes = vec![include];
        if cccl.is_dir() {
            includes.push(cccl);
        }
        Ok(Toolkit { nvcc, includes, library })
    }

    fn find_nvcc(&self) -> Result<PathBuf, NotFound> {
        let mut tried = Vec::new();
        let mut check = |label: &str, candidate: PathBuf| {
            if candidate.is_file() {
                return Some(candidate);
            }
            let place = format!("{} ({label})", candidate.display());
            if !tried.contains(&place) {
                tried.push(place);
            }
            None
        };
        let in_path = |name: &Path| {
            std::env::split_paths(&self.path)
                .filter(|folder| folder.is_absolute())
                .map(|folder| folder.join(name))
                .collect::<Vec<_>>()
        };

        let found = if let Some(nvcc) = &self.nvcc {
            let nvcc = Path::new(nvcc);
            if nvcc.components().count() > 1 {
                check("NVCC", nvcc.to_owned())
            } else {
                in_path(nvcc).into_iter().find_map(|file| check("NVCC, in PATH", file))
            }
        } else {
            let homes = self.homes.iter().flat_map(|(name, home)| {
                nested_roots(home).map(|root| (*name, root.join("bin/nvcc")))
            });
            let path = in_path(Path::new("nvcc")).into_iter().map(|file| ("PATH", file));
            let usual = self.usual.iter().map(|home| ("usual place", home.join("bin/nvcc")));
            homes.chain(path).chain(usual).find_map(|(label, file)| check(label, file))
        };
        found.ok_or(NotFound { what: "nvcc".to_owned(), tried })
    }

    /// Returns the toolkit folders that `nvcc` may belong to. It can be a link into one, as in the packages
    /// of some distributions, or a wrapper for a toolkit that only a variable names.
    fn roots_of(&self, nvcc: &Path) -> Vec<PathBuf> {
        let resolved = nvcc.canonicalize().ok();
        let above = [Some(nvcc), resolved.as_deref()]
            .into_iter()
            .flatten()
            .filter_map(|file| Some(file.parent()?.parent()?.to_owned()));
        let mut roots = Vec::new();
        for root in above.chain(self.homes.iter().flat_map(|(_, home)| nested_roots(home))) {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        roots
    }

    /// Returns NVIDIA's names for the target's folder below `targets/`.
    fn target_folders(&self) -> &'static [&'static str] {
        match self.target_arch.as_str() {
            "aarch64" => &["sbsa-linux", "aarch64-linux"],
            _ => &["x86_64-linux"],
        }
    }

    fn include_folders(&self) -> Vec<String> {
        let mut folders: Vec<_> =
            self.target_folders().iter().map(|name| format!("targets/{name}/include")).collect();
        folders.push("include".to_owned());
        folders
    }

    fn library_folders(&self) -> Vec<String> {
        let mut folders: Vec<_> =
            self.target_folders().iter().map(|name| format!("targets/{name}/lib")).collect();
        folders.extend(["lib64".to_owned(), "lib".to_owned()]);
        folders.push(format!("lib/{}-linux-gnu", self.target_arch));
        folders
    }
}

/// A complete toolkit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Toolkit {
    /// The compiler driver.
    pub(crate) nvcc: PathBuf,
    /// The include folders for a host compiler.
    pub(crate) includes: Vec<PathBuf>,
    /// The folder with `libcudart_static.a`.
    pub(crate) library: PathBuf,
}

/// The missing tool or file, and the places where it was not found.
#[derive(Debug)]
pub(crate) struct NotFound {
    what: String,
    tried: Vec<String>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "feature `cuda` needs {}, which was found in none of:", self.what)?;
        for place in &self.tried {
            writeln!(f, "  {place}")?;
        }
        write!(
            f,
            "set CUDA_HOME to the folder of a CUDA toolkit (12.2 or newer) or NVCC to its nvcc; in a \
             checkout of this workspace, `cargo xtask toolkit` brings one without root"
        )
    }
}

/// Returns a folder, and the toolkit inside it if pip installed CUDA 13 wheels there.
fn nested_roots(home: &Path) -> [PathBuf; 2] {
    [home.to_owned(), home.join("nvidia/cu13")]
}

fn folders(roots: &[PathBuf], below: &[String]) -> Vec<PathBuf> {
    roots.iter().flat_map(|root| below.iter().map(move |folder| root.join(folder))).collect()
}

fn first_with(what: &str, file: &str, folders: &[PathBuf]) -> Result<PathBuf, NotFound> {
    folders.iter().find(|folder| folder.join(file).is_file()).cloned().ok_or_else(|| NotFound {
        what: format!("{what} ({file})"),
        tried: folders.iter().map(|folder| folder.join(file).display().to_string()).collect(),
    })
}
