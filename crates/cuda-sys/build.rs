//! Compiles the cxx bridge and the C++ of the `cuda/` tree, and with feature `cuda` its kernels.
//!
//! `cuda` is a link in this crate to the tree at the top of the workspace. Packages and vendored copies
//! contain the tree itself instead. Nothing outside the crate's own folder is read.
//!
//! The nvcc recipe is here, not in xtask, so that path and git dependencies on this crate build without
//! further steps. An error says what was looked for, where, and what to set.

#[path = "build/architectures.rs"]
mod architectures;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/sources.rs"]
mod sources;
#[path = "build/toolkit.rs"]
mod toolkit;
#[path = "build/version.rs"]
mod version;
#[path = "build/watched.rs"]
mod watched;

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;
use std::thread;

use architectures::Request;
use nvcc::Recipe;
use sources::Sources;
use toolkit::{Search, Toolkit};
use version::Version;

fn main() -> ExitCode {
    match build() {
        Ok(()) => {}
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
        }
    }
    // A logged error fails the build by itself. With a failing exit status, cargo would bury the error in
    // all output of this script.
    ExitCode::SUCCESS
}

fn build() -> Result<(), String> {
    let tree = required_path("CARGO_MANIFEST_DIR")?.join("cuda");
    if !tree.is_dir() {
        return Err(format!(
            "{} is no folder: it should be a link to the C++ sources (did git check it out as a file?)",
            tree.display()
        ));
    }
    let include = tree.join("include");
    let sources = Sources::collect(&tree)
        .map_err(|error| format!("cannot list the C++ sources in {}: {error}", tree.display()))?;
    let measures = env::var_os("CARGO_FEATURE_MEASURE").is_some();
    let sources = if measures { sources } else { sources.without_measuring() };
    println!("cargo::rerun-if-changed={}", tree.display());
    println!("cargo::metadata=include={}", include.display());

    // docs.rs has no nvcc, and documentation links nothing.
    let with_cuda = env::var_os("CARGO_FEATURE_CUDA").is_some() && variable("DOCS_RS").is_none();
    let warnings_are_errors = variable("CUDA_SYS_WERROR").is_some_and(|value| value == "1");

    let toolkit = if with_cuda { Some(find_toolkit(&tree)?) } else { None };
    compile_cpp(&tree, &sources, measures, toolkit.as_ref(), warnings_are_errors);
    if let Some(toolkit) = &toolkit {
        compile_kernels(&tree, &sources.kernels, toolkit, warnings_are_errors)?;
        link_runtime(toolkit);
        for function in watched::FUNCTIONS {
            println!("cargo::rustc-link-arg-examples=-Wl,--wrap={function}");
        }
    }
    Ok(())
}

fn find_toolkit(tree: &Path) -> Result<Toolkit, String> {
    let target_os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os != "linux" {
        return Err(format!("feature `cuda` is for Linux targets, and this one is {target_os}"));
    }
    let target_arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // The folder that contains the tree. If the tree is a link, this is the workspace, which may have a
    // toolkit of its own. Otherwise it is this crate.
    let tree = tree.canonicalize().map_err(|error| format!("{}: {error}", tree.display()))?;
    let home = tree.parent().unwrap_or(&tree);
    Search::new(variable, home, &target_arch).find().map_err(|error| error.to_string())
}

/// Compiles the bridge and all host C++ into one archive.
fn compile_cpp(
    tree: &Path,
    sources: &Sources,
    measures: bool,
    toolkit: Option<&Toolkit>,
    warnings_are_errors: bool,
) {
    let include = tree.join("include");
    let fake_device = env::var_os("CARGO_FEATURE_FAKE_DEVICE").is_some();
    let bridges = ["src/bridge.rs", "src/fake.rs"];
    cxx_build::CFG.exported_header_dirs.push(&include);
    let mut build = cxx_build::bridges(bridges.iter().take(if fake_device { 2 } else { 1 }));
    if fake_device {
        build.file(tree.join("tests/fake_device.cpp"));
    }
    build
        .std("c++17")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(warnings_are_errors)
        .flag("-Wshadow")
        // Gives the same bits on host and device only if neither fuses operations.
        .flag("-ffp-contract=off")
        .files(&sources.host);
    // Unoptimised decoders would slow down debug builds of every dependent.
    if matches!(env::var("OPT_LEVEL").as_deref(), Ok("0" | "1")) {
        build.opt_level(2);
    }
    if measures {
        build.define("TRANSFER_MEASURE", "1");
    }
    if let Some(toolkit) = toolkit {
        build.define("TRANSFER_WITH_CUDA", "1").files(&sources.runtime);
        for folder in &toolkit.includes {
            // As a system folder, because its warnings do not matter here.
            build.flag("-isystem").flag(folder);
        }
    }
    build.compile("phi3_transfer");
}

fn compile_kernels(
    tree: &Path,
    kernels: &[PathBuf],
    toolkit: &Toolkit,
    warnings_are_errors: bool,
) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", toolkit.nvcc.display());
    let version = Version::accept(&output_of(&toolkit.nvcc, "--version")?)
        .map_err(|error| format!("{}: {error}", toolkit.nvcc.display()))?;
    if version.is_untried() {
        println!("cargo::warning=nvcc {version} is newer than those this build was tried with");
    }
    let known = output_of(&toolkit.nvcc, "--list-gpu-arch")?;
    let request = Request::choose(variable);
    let targets = architectures::targets(request.as_ref(), &known, || dry_run(toolkit, kernels))?;
    println!("cargo::rustc-env=CUDA_SYS_BUILT_WITH={version}");
    println!("cargo::rustc-env=CUDA_SYS_BUILT_FOR={targets}");

    let out = required_path("OUT_DIR")?;
    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let workers = jobs.min(kernels.len()).max(1);
    let recipe = Recipe {
        targets: &targets,
        include: &tree.join("include"),
        host_compiler: &host_compiler(),
        warnings_are_errors,
        threads: (jobs / workers).max(1),
    };
    let objects: Vec<_> = kernels
        .iter()
        .map(|kernel| sources::object_path(kernel, &tree.join("kernels"), &out))
        .collect();

    let queue = Mutex::new(kernels.iter().zip(&objects).collect::<VecDeque<_>>());
    let next = || queue.lock().ok()?.pop_front();
    let work = || {
        while let Some((kernel, object)) = next() {
            run(&toolkit.nvcc, &recipe.arguments(kernel, object))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err("a compile thread panicked".to_owned()))
        })
    })?;

    cc::Build::new().objects(&objects).compile("phi3_transfer_kernels");
    Ok(())
}

fn link_runtime(toolkit: &Toolkit) {
    println!("cargo::rustc-link-search=native={}", toolkit.library.display());
    println!("cargo::rustc-link-lib=static=cudart_static");
    for library in ["dl", "rt", "pthread"] {
        println!("cargo::rustc-link-lib={library}");
    }
}

/// Returns the compiler to which nvcc passes host code: `NVCC_CCBIN`, or the compiler of the other files,
/// so that all objects of a build come from one compiler.
fn host_compiler() -> PathBuf {
    match variable("NVCC_CCBIN") {
        Some(path) => path.into(),
        None => cc::Build::new().cpp(true).get_compiler().path().to_owned(),
    }
}

/// Runs `program`. Reports its output as warnings, or as the error if it fails.
fn run(program: &Path, arguments: &[OsString]) -> Result<(), String> {
    let output = printed_by(program, arguments)?;
    let printed = [output.stdout, output.stderr].concat();
    for line in String::from_utf8_lossy(&printed).lines() {
        println!("cargo::warning={line}");
    }
    Ok(())
}

/// Returns what nvcc would run to compile a kernel for the GPUs of this machine. This shows their architectures,
/// and works with every nvcc, even if it is a script that calls the real one.
fn dry_run(toolkit: &Toolkit, kernels: &[PathBuf]) -> Result<String, String> {
    let kernel = kernels.first().ok_or("there are no kernels")?;
    let arguments = ["-arch=native", "--dryrun", "-c"].map(OsString::from);
    let arguments: Vec<_> = arguments.into_iter().chain([kernel.clone().into()]).collect();
    let output = printed_by(&toolkit.nvcc, &arguments)?;
    // nvcc prints both the commands and the warning to standard error.
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn output_of(program: &Path, argument: &str) -> Result<String, String> {
    let output = printed_by(program, &[argument.into()])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `program`, which must succeed, and returns what it printed.
fn printed_by(program: &Path, arguments: &[OsString]) -> Result<Output, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(output);
    }
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    Err(format!(
        "{} {} failed ({})\n{}{}",
        program.display(),
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Reads a variable that users set. The script runs again when it changes.
fn variable(name: &str) -> Option<OsString> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name)
}

/// Reads a variable that cargo sets.
fn required_path(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("cargo has not set {name}"))
}
