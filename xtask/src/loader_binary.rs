//! Builds `phi3-loader` and the tests of the CUDA device.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::toolkit::{self, Cuda};
use crate::workspace::cargo;
use crate::{nvidia, process};

/// The packages that contain the CUDA device and its tests.
pub(crate) const CUDA_PACKAGES: [&str; 6] =
    ["--package", "cuda-sys", "--package", "loader", "--package", "phi3-loader"];

/// The features of these packages that add the CUDA device and all its tests.
pub(crate) const CUDA_FEATURES: &str = "cuda-sys/cuda,loader/cuda,loader/synth,phi3-loader/cuda";

/// Runs `cargo xtask build-cuda`.
pub(crate) fn build_cuda(architectures: Option<&str>) -> Result<()> {
    let cuda = toolkit::find()?;
    let mut build = release_build();
    cuda.apply(build.args(["--features", "cuda"]));
    if let Some(list) = architectures {
        build.env("CUDA_SYS_ARCHS", list);
    }
    let binary = executable(&mut build)?;
    println!("{}", binary.display());
    Ok(())
}

/// Builds the loader in release. If a toolkit is given, the build includes the CUDA device.
pub(crate) fn release(cuda: Option<&Cuda>) -> Result<PathBuf> {
    let mut build = release_build();
    if let Some(cuda) = cuda {
        cuda.apply(build.args(["--features", "cuda"]));
    }
    executable(&mut build)
}

/// Builds the loader in release for the best device of this machine.
pub(crate) fn for_this_machine() -> Result<PathBuf> {
    let cuda = if nvidia::has_driver() {
        toolkit::find_or_bring()
            .inspect_err(|error| eprintln!("note: loading into host memory instead: {error:#}"))
            .ok()
    } else {
        eprintln!("note: there is no NVIDIA driver here, so models go into host memory");
        None
    };
    release(cuda.as_ref())
}

/// Returns the command that builds the loader in release. The caller can add features and environment
/// variables.
pub(crate) fn release_build() -> Command {
    cargo(["build", "--release", "--locked", "--package", "phi3-loader"])
}

/// Runs a build of a single binary and returns its path.
pub(crate) fn executable(build: &mut Command) -> Result<PathBuf> {
    let (_, path) = executables(build, &["bin"])?.pop().context("cargo built no executable")?;
    Ok(path)
}

/// Runs a build. Returns the executables of these `kinds` (`bin`, `test`, `example`), each with its name
/// `package--target` and its path.
pub(crate) fn executables(build: &mut Command, kinds: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    process::run_by_line(build.arg("--message-format=json-render-diagnostics"), |line| {
        found.extend(serde_json::from_str(line).ok().and_then(|m| named_executable(&m, kinds)));
    })?;
    Ok(found)
}

/// Returns the executable that one of cargo's messages describes.
fn named_executable(message: &Value, kinds: &[&str]) -> Option<(String, PathBuf)> {
    let path = message["executable"].as_str()?;
    let target = &message["target"];
    target["kind"]
        .as_array()?
        .iter()
        .any(|kind| kinds.iter().any(|wanted| kind == wanted))
        .then_some(())?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let package = manifest.parent()?.file_name()?.to_str()?;
    Some((format!("{package}--{}", target["name"].as_str()?), path.into()))
}

/// Copies an executable without what this option of `strip` removes.
pub(crate) fn copy_stripped(option: &str, from: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("strip").arg(option).arg("-o").arg(to).arg(from))
        .context("`strip` comes with the C++ compiler's binutils")
}
