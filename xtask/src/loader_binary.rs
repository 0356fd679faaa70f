//! Building `phi3-loader` and the tests beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::toolkit::{self, Cuda};
use crate::workspace::cargo;
use crate::{nvidia, process};

/// The packages that have the CUDA device and tests of it.
pub(crate) const CUDA_PACKAGES: [&str; 6] =
    ["--package", "cuda-sys", "--package", "loader", "--package", "phi3-loader"];

/// Their features that add it, and all its tests.
pub(crate) const CUDA_FEATURES: &str = "cuda-sys/cuda,loader/cuda,loader/synth,phi3-loader/cuda";

/// `cargo xtask build-cuda`.
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

/// Builds the loader in release; with the CUDA device, if given a toolkit for it.
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

/// The build of the loader in release, on which features and environment can still be put.
pub(crate) fn release_build() -> Command {
    cargo(["build", "--release", "--locked", "--package", "phi3-loader"])
}

/// Runs a build of a single binary; where it lies.
pub(crate) fn executable(build: &mut Command) -> Result<PathBuf> {
    let (_, path) = executables(build, &["bin"])?.pop().context("cargo built no executable")?;
    Ok(path)
}

/// Runs a build; the executables of these `kinds` (`bin`, `test`, `example`) that it made, each as
/// `package--target` and where it lies.
pub(crate) fn executables(build: &mut Command, kinds: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    process::run_by_line(build.arg("--message-format=json-render-diagnostics"), |line| {
        found.extend(serde_json::from_str(line).ok().and_then(|m| named_executable(&m, kinds)));
    })?;
    Ok(found)
}

/// What one of cargo's messages says of an executable.
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
