//! `cargo xtask dist`: a release archive and a Debian package in `target/dist/`.

mod debian;
mod licences;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::licences::Linked;
use crate::loader_binary::{copy_stripped, executable, release_build};
use crate::workspace::{self, cargo, copy_folder};
use crate::{process, toolkit};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The completion scripts, in the folders of a prefix such as `/usr/local` where the shells look for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/phi3-loader"),
    ("fish", "share/fish/vendor_completions.d/phi3-loader.fish"),
    ("zsh", "share/zsh/site-functions/_phi3-loader"),
];

/// The documents of this repository that a release contains.
const DOCUMENTS: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// The files of a release.
pub(crate) struct Release {
    pub(crate) archive: PathBuf,
    /// None if the tools of Debian are not installed.
    pub(crate) package: Option<PathBuf>,
    pub(crate) checksums: PathBuf,
}

/// Runs `cargo xtask dist`.
pub(crate) fn run(with_cuda: bool) -> Result<()> {
    let release = make(with_cuda)?;
    for file in [release.archive].iter().chain(&release.package).chain([&release.checksums]) {
        println!("{}", file.display());
    }
    Ok(())
}

/// Builds the program, and packs it with its documents. The same commit and tools give the same bytes.
pub(crate) fn make(with_cuda: bool) -> Result<Release> {
    let name = if with_cuda { "phi3-loader-cuda" } else { "phi3-loader" };
    let metadata = process::output(&mut cargo(["metadata", "--format-version=1", "--locked"]))?;
    let metadata = serde_json::from_str(&metadata)?;
    let crates = licences::linked_crates(&metadata, with_cuda)?;
    let binary = build(with_cuda, &metadata, &crates)?;

    let folder = TempDir::new()?;
    let contents = folder.path().join(format!("{name}-{VERSION}-{}", host()?));
    fill(&contents, &binary)?;
    licences::write(&contents.join("third-party"), &crates, with_cuda)?;
    let sums = checksums("sha256sum", &contents, &workspace::files_below(&contents)?)?;
    fs::write(contents.join("SHA256SUMS"), sums)?;
    // Independent of the umask of this process, and of the one with which the files were checked out.
    process::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&contents))?;

    let dist = workspace::target().join("dist");
    fs::create_dir_all(&dist)?;
    let seconds = seconds_of_sources()?;
    let archive = archive(&contents, &dist, seconds)?;
    let package = debian::package(name, &contents, &dist, seconds)?;
    let list = dist.join("SHA256SUMS");
    let mut files = workspace::files_below(&dist)?;
    files.retain(|file| *file != list);
    fs::write(&list, checksums("sha256sum", &dist, &files)?)?;
    Ok(Release { archive, package, checksums: list })
}

/// Builds the program in release. Its messages about internal errors name source files of other crates, without
/// the folders of this machine.
fn build(with_cuda: bool, metadata: &Value, crates: &[Linked]) -> Result<PathBuf> {
    let registry = crates.first().and_then(|one| one.folder.parent()).context("no crates")?;
    let target = metadata["target_directory"].as_str().context("no folder of the build")?;
    let renamed = [(registry, "crates.io"), (Path::new(target), "target")];
    let flags = |flag: &str| renamed.map(|(from, to)| format!("{flag}={}={to}", from.display()));
    let mut of_cpp = env::var("CXXFLAGS").unwrap_or_default();
    of_cpp.extend(flags("-ffile-prefix-map").map(|flag| format!(" '{flag}'")));
    let mut build = release_build();
    build.arg("--config").arg(format!("build.rustflags={}", json!(flags("--remap-path-prefix"))));
    build.env("CC_SHELL_ESCAPED_FLAGS", "1").env("CXXFLAGS", of_cpp);
    if with_cuda {
        toolkit::find_or_bring()?.apply(build.args(["--features", "cuda"]));
    }
    executable(&mut build)
}

/// Writes the contents of the archive. Its folders `bin`, `include` and `share` can be copied to a prefix.
fn fill(contents: &Path, binary: &Path) -> Result<()> {
    let file = |name: &str| -> Result<PathBuf> {
        let path = contents.join(name);
        fs::create_dir_all(path.parent().unwrap_or(contents))?;
        Ok(path)
    };
    let program = file("bin/phi3-loader")?;
    copy_stripped("--strip-all", binary, &program)?;
    for (shell, name) in COMPLETIONS {
        let script = process::output(Command::new(&program).args(["completions", shell]))?;
        fs::write(file(name)?, script)?;
    }
    let pages = contents.join("share/man/man1");
    fs::create_dir_all(&pages)?;
    process::run(Command::new(&program).args(["man", "--dir"]).arg(&pages))?;

    let root = workspace::root();
    let header = "include/phi3_weights.h";
    fs::copy(root.join("crates/loader").join(header), file(header)?)?;
    for name in DOCUMENTS {
        fs::copy(root.join(name), contents.join(name))?;
    }
    copy_folder(&root.join("docs"), &contents.join("docs"))
}

/// Packs a folder, in a file that has its name.
fn archive(contents: &Path, destination: &Path, seconds: u64) -> Result<PathBuf> {
    let folder = contents.parent().context("no folder to pack")?;
    let name = contents.file_name().context("no folder to pack")?;
    let mut archive = destination.join(name).into_os_string();
    archive.push(".tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{seconds}")).arg("--use-compress-program=gzip -9n");
    tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(folder).arg(name);
    process::run(&mut tar)?;
    Ok(archive.into())
}

/// Returns the target for which cargo builds.
fn host() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Returns the time that all packed files get, in seconds since 1970: `SOURCE_DATE_EPOCH`, or the time of the
/// commit. Files of a source archive also have the time of the commit.
fn seconds_of_sources() -> Result<u64> {
    if let Ok(seconds) = env::var("SOURCE_DATE_EPOCH") {
        return seconds.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(workspace::root());
    if let Ok(seconds) = process::output(&mut git) {
        return Ok(seconds.trim().parse()?);
    }
    let modified = fs::metadata(workspace::root().join("Cargo.toml"))?.modified()?;
    Ok(modified.duration_since(UNIX_EPOCH)?.as_secs())
}

/// Returns what `sha256sum` or `md5sum` prints of these files. Their names are relative to the folder.
fn checksums(tool: &str, folder: &Path, files: &[PathBuf]) -> Result<String> {
    let names = files.iter().map(|file| file.strip_prefix(folder).unwrap_or(file));
    process::output(Command::new(tool).args(names).current_dir(folder))
}
