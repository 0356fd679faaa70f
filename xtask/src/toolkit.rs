//! The CUDA toolkit of a build: the installed one, or a pinned one from wheels.

#[path = "../../crates/cuda-sys/build/toolkit.rs"]
mod search;
#[path = "../../crates/cuda-sys/build/version.rs"]
mod version;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::{process, wheels, workspace};
use search::{Search, Toolkit};
use version::Version;

/// A CUDA toolkit, and the environment that makes the build script of `cuda-sys` use it.
pub(crate) struct Cuda {
    /// The value of `CUDA_HOME`, if the build script would not find this toolkit itself. It is set only
    /// if necessary: a changed environment compiles all kernels again.
    home: Option<PathBuf>,
}

impl Cuda {
    /// Makes `command` build with this toolkit.
    pub(crate) fn apply<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(home) = &self.home {
            command.env("CUDA_HOME", home);
        }
        command
    }
}

/// Returns the installed toolkit, if there is a usable one.
pub(crate) fn find() -> Result<Cuda> {
    let (toolkit, version) = usable()?;
    let untried = if version.is_untried() { ", newer than any this was tried with" } else { "" };
    eprintln!("nvcc {version}{untried}: {}", toolkit.nvcc.display());
    eprintln!("  headers: {}", toolkit.includes[0].display());
    eprintln!("  runtime: {}", toolkit.library.display());
    Ok(Cuda { home: None })
}

/// Returns the installed toolkit. If there is no usable one, installs the pinned one.
pub(crate) fn find_or_bring() -> Result<Cuda> {
    // If the user names a compiler, use that one. If it is not usable, this is an error.
    if env::var_os("NVCC").is_none()
        && let Err(error) = usable()
    {
        eprintln!("bringing a pinned CUDA toolkit, because {error}");
        let home = bring()?;
        if usable().is_err() {
            eprintln!("using the toolkit in {}", home.display());
            return Ok(Cuda { home: Some(home) });
        }
    }
    find()
}

/// Runs `cargo xtask toolkit`.
pub(crate) fn bring_and_print() -> Result<()> {
    let home = bring()?;
    println!("CUDA_HOME={}", home.display());
    Ok(())
}

/// Installs the pinned toolkit, checks that it compiles, and returns its folder.
fn bring() -> Result<PathBuf> {
    let destination = workspace::target().join("cuda-toolkit");
    wheels::install(&workspace::root().join("xtask/cuda-toolkit.txt"), &destination)?;
    let home = destination.join("nvidia/cu13");
    for folder in ["bin", "nvvm/bin"] {
        make_executable(&home.join(folder))?;
    }
    compile_something(&home)?;
    Ok(home)
}

fn usable() -> Result<(Toolkit, Version)> {
    let toolkit = Search::new(|name| env::var_os(name), &workspace::root(), env::consts::ARCH)
        .find()
        .map_err(|error| anyhow!("{error}"))?;
    let version = Version::accept(&process::output(Command::new(&toolkit.nvcc).arg("--version"))?)
        .map_err(|error| anyhow!("{}: {error}", toolkit.nvcc.display()))?;
    Ok((toolkit, version))
}

/// Makes the files of a folder executable: some versions of pip do not restore the permissions of files in
/// wheels.
fn make_executable(folder: &Path) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn compile_something(home: &Path) -> Result<()> {
    let folder = home.join("proof");
    fs::create_dir_all(&folder)?;
    let source = folder.join("kernel.cu");
    fs::write(
        &source,
        "#include <cuda_fp16.h>\n\
         __global__ void to_half(const float* in, __half* out) {\n\
         \x20 out[threadIdx.x] = __float2half_rn(in[threadIdx.x]);\n\
         }\n",
    )?;
    let mut nvcc = Command::new(home.join("bin/nvcc"));
    nvcc.arg("-c").arg(&source).arg("-o").arg(folder.join("kernel.o"));
    process::run(process::to_stderr(&mut nvcc))
        .context("the toolkit was installed, but does not compile")
}
