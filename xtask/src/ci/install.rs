//! Makes a release, installs its archive and its Debian package, and uses the program as a user would.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{dist, process};

/// Command lines of a user who has nothing but the program.
const USES: [&[&str]; 6] = [
    &["--version"],
    &["synth", "model.gguf", "--preset", "tiny"],
    &["verify", "model.gguf"],
    &["inspect", "model.gguf"],
    &["plan", "model.gguf"],
    &["load", "model.gguf", "--device", "host"],
];

/// Shells, scripts that use the installed completion, and the start of their outputs. `$SHARE` is the folder `share`
/// of the installation.
const SHELLS: [(&str, &str, &str); 3] = [
    (
        "bash",
        "source $SHARE/bash-completion/completions/phi3-loader; COMP_LINE='phi3-loader ver'\n\
         COMP_POINT=15; _phi3_loader phi3-loader; echo ${COMPREPLY[@]}",
        "verify\n",
    ),
    ("fish", "complete -C 'phi3-loader ver'", "verify\t"),
    (
        "zsh",
        "fpath+=($SHARE/zsh/*(/)); autoload -Uz compinit; compinit -u -D; echo $_comps[phi3-loader]",
        "_phi3-loader\n",
    ),
];

/// Checks the archive and, if it can be made here, the package.
pub(super) fn check() -> Result<()> {
    let release = dist::make(false)?;
    let files = || [&release.archive].into_iter().chain(&release.package).map(fs::read);
    let first: Vec<_> = files().collect::<Result<_, _>>()?;
    dist::make(false)?;
    let second: Vec<_> = files().collect::<Result<_, _>>()?;
    ensure!(first == second, "the second release differs from the first");
    checksums_match(&release.checksums)?;

    let root = TempDir::new()?;
    let local = root.path().join("usr/local");
    fs::create_dir_all(&local)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--file"]).arg(&release.archive);
    process::run(tar.arg("--directory").arg(&local))?;
    checksums_match(&local.join("SHA256SUMS"))?;
    use_program(root.path(), &local)?;

    let Some(package) = &release.package else { return Ok(()) };
    let root = TempDir::new()?;
    fs::create_dir_all(root.path().join("var/lib/dpkg/updates"))?;
    fs::write(root.path().join("var/lib/dpkg/status"), "")?;
    let mut dpkg = Command::new("unshare");
    // This root has the libraries, but not their packages.
    dpkg.args(["--map-root-user", "dpkg", "--force-depends", "--log=/dev/null", "--root"]);
    process::run(dpkg.arg(root.path()).arg("--install").arg(package))?;
    use_program(root.path(), &root.path().join("usr"))?;
    if process::is_installed("lintian") {
        process::run(Command::new("lintian").arg(package))?;
    }
    Ok(())
}

fn checksums_match(list: &Path) -> Result<()> {
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--quiet"]).arg(list);
    process::run(check.current_dir(list.parent().context("a list without a folder")?))
}

/// Runs the program with no other files than its libraries and no network. Then reads its man page, and completes
/// its command line.
fn use_program(root: &Path, prefix: &Path) -> Result<()> {
    let program = prefix.join("bin/phi3-loader");
    let libraries = process::output(Command::new("ldd").arg(&program))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap_or(root))?;
        fs::copy(library, copy)?;
    }
    for arguments in USES {
        let mut alone = Command::new("unshare");
        alone.args(["--map-root-user", "--net", "--root"]).arg(root).arg("phi3-loader");
        alone.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        process::run(alone.args(arguments))?;
    }

    let share = prefix.join("share");
    if process::is_installed("man") {
        let mut man = Command::new("man");
        let page =
            process::output(man.arg("--manpath").arg(share.join("man")).arg("phi3-loader-load"))?;
        ensure!(page.contains("--split-mode"), "man does not show the page of `load`");
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [prefix.join("bin")].into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(path)?;
    for (shell, script, expected) in SHELLS {
        if !process::is_installed(shell) {
            continue;
        }
        let mut completion = Command::new(shell);
        completion.args(["-c", script]).env("PATH", &path).env("HOME", root);
        completion.env("SHARE", &share).env("XDG_DATA_DIRS", &share);
        let printed = process::output(&mut completion)?;
        ensure!(printed.starts_with(expected), "{shell} completes to {printed:?}");
    }
    Ok(())
}
