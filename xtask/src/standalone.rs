//! `cargo xtask standalone`: checks that each crate works outside this workspace.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process;
use crate::workspace::{self, cargo};

/// A program whose dependencies come from git.
struct Consumer {
    of: &'static str,
    main: &'static str,
    /// Lines of its manifest for crates that are not of this repository.
    others: &'static str,
    /// The crates whose C and C++ headers its build script uses. Empty if it must build without a C++ compiler.
    headers: &'static [Header],
}

/// A header for C or C++ consumers. Cargo gives the folder to the build scripts of direct dependents.
struct Header {
    of: &'static str,
    variable: &'static str,
    file: &'static str,
}

const HEADERS: [Header; 2] = [
    Header { of: "loader", variable: "DEP_PHI3_LOADER_INCLUDE", file: "phi3_weights.h" },
    Header { of: "cuda-sys", variable: "DEP_PHI3_TRANSFER_INCLUDE", file: "transfer/device.hpp" },
];

const CONSUMERS: [Consumer; 4] = [
    Consumer {
        of: "gguf-format",
        main: include_str!("../consumers/gguf-format.rs"),
        others: "",
        headers: &[],
    },
    Consumer {
        of: "model-phi3",
        main: include_str!("../consumers/model-phi3.rs"),
        others: "",
        headers: &[],
    },
    Consumer {
        of: "keeper",
        main: include_str!("../consumers/keeper.rs"),
        others: "",
        headers: &[],
    },
    Consumer {
        of: "loader",
        main: include_str!("../consumers/loader.rs"),
        others: "serde = \"1\"\n",
        headers: &HEADERS,
    },
];

/// The address in the dependency lines of the README.
const README_ADDRESS: &str = "URL of this repository";

/// Files that every package must contain.
const IN_EVERY_PACKAGE: [&str; 5] =
    ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "src/lib.rs"];

/// Checks the lists of the packages. Then vendors each crate into a consumer and builds that offline.
pub(crate) fn check() -> Result<()> {
    check_packages()?;
    let folder = TempDir::new()?;
    let origin = snapshot_of_workspace()?;
    for consumer in &CONSUMERS {
        consumer.check(folder.path(), &origin).with_context(|| {
            format!("a consumer of {} alone, vendored and offline", consumer.of)
        })?;
    }
    Ok(())
}

/// Checks that the package of `cuda-sys` has the C++, and that every package has a README and the
/// licences.
fn check_packages() -> Result<()> {
    let crates = workspace::root().join("crates");
    for entry in fs::read_dir(&crates)? {
        let name = entry?.file_name();
        let list = ["package", "--list", "--allow-dirty", "--locked", "--package"];
        let list = process::output(cargo(list).arg(&name))?;
        let packed: BTreeSet<_> = list.lines().collect();
        let mut expected: Vec<_> = IN_EVERY_PACKAGE.map(str::to_owned).into();
        if name == "cuda-sys" {
            let sources = workspace::files_below(&workspace::root().join("cuda"))?;
            ensure!(!sources.is_empty(), "there are no C++ sources");
            let below = |file: &Path| Some(file.strip_prefix(workspace::root()).ok()?.to_owned());
            let sources = sources.iter().filter_map(|file| below(file));
            expected.extend(sources.map(|file| file.display().to_string()));
        }
        for file in expected {
            ensure!(packed.contains(&*file), "the package of {} lacks {file}", name.display());
        }
    }
    Ok(())
}

/// Creates a git repository with one commit of this checkout's files, and returns its address. It is not a
/// clone, because the checkout may belong to another user or have no history. The address is always the same,
/// because cargo keeps a copy for each address.
fn snapshot_of_workspace() -> Result<String> {
    let origin = workspace::target().join("standalone.git");
    if origin.exists() {
        fs::remove_dir_all(&origin)?;
    }
    process::run(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&origin))?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(&origin).arg("--work-tree").arg(workspace::root());
        git.args(["-c", "user.name=xtask", "-c", "user.email=xtask@localhost"]).args(arguments);
        process::run(git.current_dir(workspace::root()))
    };
    git(&["add", "--all"])?;
    git(&["commit", "--quiet", "--message", "snapshot"])?;
    git(&["tag", concat!("v", env!("CARGO_PKG_VERSION"))])?;
    Ok(format!("file://{}", origin.display()))
}

impl Consumer {
    fn check(&self, folder: &Path, origin: &str) -> Result<()> {
        let home = folder.join(self.of);
        let target = folder.join("target");
        self.write(&home, origin)?;
        let in_home = |arguments: &[&str]| {
            let mut command = cargo(arguments);
            // Debug information would take most of the time.
            command.current_dir(&home).env("CARGO_PROFILE_DEV_DEBUG", "0");
            command
        };
        let config = process::output(&mut in_home(&["vendor", "--quiet"]))?;
        fs::create_dir(home.join(".cargo"))?;
        fs::write(home.join(".cargo/config.toml"), config)?;

        let mut build = in_home(&["build", "--offline", "--locked", "--target-dir"]);
        build.arg(&target);
        if self.headers.is_empty() {
            without_cpp(&mut build, folder)?;
        }
        process::run(&mut build)?;

        let program = target.join("debug/consumer");
        let model = workspace::root().join("testdata/models/fused-f16.gguf");
        process::run(Command::new(program).arg(model))
    }

    /// Returns a build script that fails if a header is not where cargo's variable says.
    fn build_script(&self) -> String {
        let checks = self.headers.iter().map(|Header { variable, file, .. }| {
            format!(
                "    let folder = std::env::var_os(\"{variable}\").expect(\"{variable}\");\n\
                 \x20   let header = std::path::Path::new(&folder).join(\"{file}\");\n\
                 \x20   assert!(header.is_file(), \"{{}}\", header.display());\n"
            )
        });
        format!("fn main() {{\n{}}}\n", checks.collect::<String>())
    }

    fn write(&self, home: &Path, origin: &str) -> Result<()> {
        let crates: BTreeSet<_> =
            self.headers.iter().map(|header| header.of).chain([self.of]).collect();
        let mut manifest =
            "[package]\nname = \"consumer\"\nedition = \"2024\"\n\n[dependencies]\n".to_owned();
        for name in crates {
            manifest.push_str(&dependency_line(name)?.replace(README_ADDRESS, origin));
            manifest.push('\n');
        }
        manifest.push_str(self.others);
        fs::create_dir_all(home.join("src"))?;
        fs::write(home.join("Cargo.toml"), manifest)?;
        fs::write(home.join("src/main.rs"), self.main)?;
        fs::write(home.join("build.rs"), self.build_script())?;
        // Use the versions that this workspace is tested with.
        fs::copy(workspace::root().join("Cargo.lock"), home.join("Cargo.lock"))?;
        // Give the consumer a folder `cuda`, to check that no crate uses it instead of its own.
        fs::create_dir_all(home.join("cuda/src"))?;
        fs::write(home.join("cuda/src/own.cpp"), "#error \"this file is the consumer's\"\n")?;
        Ok(())
    }
}

/// Returns the README's dependency line of a crate.
fn dependency_line(name: &str) -> Result<String> {
    let readme = fs::read_to_string(workspace::root().join("README.md"))?;
    let start = format!("{name} = {{ git = \"{README_ADDRESS}\"");
    let line = readme.lines().find(|line| line.starts_with(&start));
    line.map(str::to_owned).with_context(|| format!("the README has no line `{start}`"))
}

/// Replaces every C++ compiler with one that fails. `cc` stays, because Rust links with it.
fn without_cpp(command: &mut Command, folder: &Path) -> Result<()> {
    let stubs = folder.join("bin");
    fs::create_dir_all(&stubs)?;
    for name in ["c++", "g++", "clang++"] {
        let stub = stubs.join(name);
        fs::write(&stub, "#!/bin/sh\necho 'a C++ compiler was called' >&2\nexit 1\n")?;
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([stubs].into_iter().chain(env::split_paths(&path)))?;
    command.env("PATH", path).env("CXX", "false");
    Ok(())
}
