//! Where a CUDA toolkit lies: nvcc, its headers and the static runtime library.
//!
//! One recipe for the build script, its tests and `cargo xtask`, so that all three mean the same
//! toolkit. Nothing here reads the environment: callers hand it in.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Variables that name a toolkit's folder, in the order in which they are asked.
pub(crate) const HOME_VARIABLES: [&str; 3] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];

/// The places to look in.
pub(crate) struct Search {
    /// `NVCC`: binding where it is set. A wrong one is an error, not a reason to look elsewhere.
    pub(crate) nvcc: Option<OsString>,
    /// The [`HOME_VARIABLES`] that are set.
    pub(crate) homes: Vec<(&'static str, PathBuf)>,
    /// `PATH`.
    pub(crate) path: OsString,
    /// Folders where toolkits get installed, asked last.
    pub(crate) usual: Vec<PathBuf>,
    /// Cargo's name for the target's architecture: `x86_64`, `aarch64`.
    pub(crate) target_arch: String,
}

impl Search {
    /// The places that this environment names, for a workspace at `workspace`.
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

    /// The first toolkit in the order of the fields, complete, or all that was tried.
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
        // CUDA 13 moved `nv/target`, which cuda_fp16.h includes, one level down. nvcc knows; a host
        // compiler has to be told.
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

    /// The toolkit folders that `nvcc` may belong to: it can be a link into one, as the packages of
    /// some distributions make it, or a wrapper whose toolkit only a variable names.
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

    /// NVIDIA's names for the folder of a target below `targets/`.
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
    /// What a host compiler needs as include folders.
    pub(crate) includes: Vec<PathBuf>,
    /// The folder of `libcudart_static.a`.
    pub(crate) library: PathBuf,
}

/// What was looked for, and in vain where.
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

/// A folder itself, and the toolkit in it where it is one into which pip installed CUDA 13 wheels.
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
