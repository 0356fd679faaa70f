//! The Debian package of a release, made with Debian's own tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{VERSION, checksums};
use crate::process;
use crate::workspace::{self, copy_folder};

const CONTROL: &str = include_str!("../../debian/control");
const COPYRIGHT: &str = include_str!("../../debian/copyright");

/// Makes the package of a filled archive. If the tools are not installed, says so and returns `None`.
pub(super) fn package(
    name: &str,
    contents: &Path,
    destination: &Path,
    seconds: u64,
) -> Result<Option<PathBuf>> {
    if !process::is_installed("dpkg-shlibdeps") {
        eprintln!("note: no Debian package is made: dpkg-shlibdeps (package dpkg-dev) is not here");
        return Ok(None);
    }
    let folder = TempDir::new()?;
    let folder = folder.path();
    let root = folder.join("root");
    fill(&root, name, contents)?;

    let date = process::output(Command::new("date").args(["-uRd", &format!("@{seconds}")]))?;
    let changelog = changelog(&date);
    let tools = folder.join("debian");
    fs::create_dir(&tools)?;
    fs::write(tools.join("control"), CONTROL)?;
    fs::write(tools.join("changelog"), &changelog)?;
    let documents = root.join("usr/share/doc").join(name);
    fs::write(documents.join("changelog.Debian"), &changelog)?;
    let pages = workspace::files_below(&root.join("usr/share/man"))?;
    let changelogs = ["changelog", "changelog.Debian"].map(|name| documents.join(name));
    process::run(Command::new("gzip").arg("-9n").args(pages).args(changelogs))?;

    let control = root.join("DEBIAN");
    fs::create_dir(&control)?;
    let sums = checksums("md5sum", &root, &workspace::files_below(&root)?)?;
    fs::write(control.join("md5sums"), sums)?;
    let program = root.join("usr/bin/phi3-loader");
    process::run(Command::new("dpkg-shlibdeps").arg(program).current_dir(folder))?;
    let mut fields = Command::new("dpkg-gencontrol");
    fields.arg(format!("-p{name}")).arg("-Proot").current_dir(folder);
    process::run(&mut fields)?;
    process::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&root))?;

    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--build"]).arg(&root).arg(destination);
    build.env("SOURCE_DATE_EPOCH", seconds.to_string()).env("LC_ALL", "C");
    let printed = process::output(&mut build)?;
    // dpkg-deb: building package 'NAME' in 'FILE'.
    let file = printed.rsplit('\'').nth(1).context("dpkg-deb names no file")?;
    Ok(Some(file.into()))
}

/// Writes the files of the package, where Debian has them.
fn fill(root: &Path, name: &str, contents: &Path) -> Result<()> {
    let usr = root.join("usr");
    for folder in ["bin", "include", "share"] {
        copy_folder(&contents.join(folder), &usr.join(folder))?;
    }
    fs::rename(usr.join("share/zsh/site-functions"), usr.join("share/zsh/vendor-completions"))?;
    let documents = usr.join("share/doc").join(name);
    for folder in ["docs", "third-party"] {
        copy_folder(&contents.join(folder), &documents.join(folder))?;
    }
    fs::copy(contents.join("README.md"), documents.join("README.md"))?;
    fs::copy(contents.join("CHANGELOG.md"), documents.join("changelog"))?;
    Ok(fs::write(documents.join("copyright"), COPYRIGHT)?)
}

/// Returns the one entry from which the tools take the version, with the maintainer of the control file.
fn changelog(date: &str) -> String {
    let maintainer = CONTROL.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    format!(
        "phi3-loader ({VERSION}-1) unstable; urgency=medium\n\n  * changelog.gz lists the changes.\n\n \
         -- {}  {date}",
        maintainer.unwrap_or_default()
    )
}
