//! How nvcc compiles kernels: the flags.

use std::ffi::OsString;
use std::path::Path;

use crate::architectures::Targets;

/// The settings that all kernels of a build share.
pub(crate) struct Recipe<'a> {
    pub(crate) targets: &'a Targets,
    pub(crate) include: &'a Path,
    pub(crate) host_compiler: &'a Path,
    pub(crate) warnings_are_errors: bool,
    /// Architectures that one nvcc compiles at the same time.
    pub(crate) threads: usize,
}

impl Recipe<'_> {
    /// Returns the arguments to compile `source` to `object`.
    pub(crate) fn arguments(&self, source: &Path, object: &Path) -> Vec<OsString> {
        let mut host_flags = "-fPIC,-Wall,-Wextra,-ffp-contract=off".to_owned();
        let mut arguments: Vec<OsString> = ["-c", "-std=c++17", "-O3", "-lineinfo"]
            .into_iter()
            // Gives the same bits on host and device only if neither fuses operations.
            .chain(["--fmad=false", "-DTRANSFER_WITH_CUDA=1"])
            .map(OsString::from)
            .collect();
        if self.warnings_are_errors {
            arguments.push("--Werror=all-warnings".into());
            host_flags.push_str(",-Werror");
        }
        arguments.push(format!("-Xcompiler={host_flags}").into());
        arguments.extend(self.targets.flags().into_iter().map(OsString::from));
        arguments.push(format!("--threads={}", self.threads).into());
        arguments.extend(["-ccbin".into(), self.host_compiler.as_os_str().to_owned()]);
        arguments.extend(["-I".into(), self.include.as_os_str().to_owned()]);
        arguments.extend(["-o".into(), object.as_os_str().to_owned()]);
        arguments.push(source.as_os_str().to_owned());
        arguments
    }
}
