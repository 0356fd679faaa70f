//! The releases of nvcc that this crate accepts.
//!
//! `cargo xtask` shares this file: it installs a toolkit if the present one is too old.

use std::fmt;

const OLDEST: Version = Version { major: 12, minor: 2 };
const NEWEST_MAJOR: u32 = 13;

/// A release of nvcc. Only these two numbers matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// Parses the output of `nvcc --version`. Fails if it is not from nvcc, or if the release is too old.
    pub(crate) fn accept(output: &str) -> Result<Self, String> {
        let version = Self::parse(output)
            .ok_or_else(|| format!("`nvcc --version` names no release; it printed:\n{output}"))?;
        if version < OLDEST {
            return Err(format!(
                "nvcc {version} is too old, {OLDEST} or newer is needed: set CUDA_HOME or NVCC to a \
                 newer toolkit, or let `cargo xtask toolkit` bring one and use that"
            ));
        }
        Ok(version)
    }

    fn parse(output: &str) -> Option<Self> {
        let release = output.split_once("release ")?.1;
        let (major, rest) = release.split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Whether this release is newer than those that were tried.
    pub(crate) fn is_untried(self) -> bool {
        self.major > NEWEST_MAJOR
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
