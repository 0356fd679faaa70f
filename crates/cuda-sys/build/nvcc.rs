//! How kernels are compiled: the GPU architectures and the flags.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

/// The architectures without `CUDA_SYS_ARCHS`: every generation since Turing that this nvcc knows. The GPU
/// of the building machine does not matter; there may be none.
const DEFAULT_ARCHITECTURES: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];

/// A GPU architecture as nvcc names it after `sm_`: `90`, or `90a` for its non-portable extensions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Architecture {
    number: u32,
    suffix: String,
}

impl Architecture {
    fn parse(name: &str) -> Option<Self> {
        let digits = name.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let number = digits.parse().ok()?;
        Some(Self { number, suffix: name[digits.len()..].to_owned() })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.suffix)
    }
}

/// Returns the architectures to compile for, ascending.
///
/// `requested` is the value of `CUDA_SYS_ARCHS`, `known` is the output of `nvcc --list-gpu-arch`. An
/// unknown requested architecture is an error. Unknown architectures of the default list are left out.
pub(crate) fn architectures(
    requested: Option<&str>,
    known: &str,
) -> Result<Vec<Architecture>, String> {
    let known: Vec<u32> = known
        .lines()
        .filter_map(|line| Some(Architecture::parse(line.trim().strip_prefix("compute_")?)?.number))
        .collect();

    let Some(requested) = requested.filter(|list| !list.trim().is_empty()) else {
        let cut: Vec<_> = DEFAULT_ARCHITECTURES
            .into_iter()
            .filter(|number| known.contains(number))
            .map(|number| Architecture { number, suffix: String::new() })
            .collect();
        return if cut.is_empty() {
            Err(format!("this nvcc knows none of the architectures {DEFAULT_ARCHITECTURES:?}"))
        } else {
            Ok(cut)
        };
    };

    let mut chosen = requested
        .split([';', ',', ' '])
        .filter(|name| !name.is_empty())
        .map(|name| {
            Architecture::parse(name)
                .filter(|architecture| known.contains(&architecture.number))
                .ok_or_else(|| {
                    format!(
                        "CUDA_SYS_ARCHS={requested}: `{name}` is no architecture of this nvcc, which \
                         knows {known:?}; give a list like 80;90"
                    )
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    chosen.sort();
    chosen.dedup();
    if chosen.is_empty() {
        return Err(format!("CUDA_SYS_ARCHS={requested} names no architecture"));
    }
    Ok(chosen)
}

/// Returns the flags for machine code for each architecture, and for PTX of the newest, which later GPUs
/// compile.
pub(crate) fn code_generation(architectures: &[Architecture]) -> Vec<String> {
    let mut flags: Vec<_> = architectures
        .iter()
        .map(|name| format!("-gencode=arch=compute_{name},code=sm_{name}"))
        .collect();
    if let Some(newest) = architectures.last() {
        flags.push(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    }
    flags
}

/// The settings that all kernels of a build share.
pub(crate) struct Recipe<'a> {
    pub(crate) architectures: &'a [Architecture],
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
        arguments.extend(code_generation(self.architectures).into_iter().map(OsString::from));
        arguments.push(format!("--threads={}", self.threads).into());
        arguments.extend(["-ccbin".into(), self.host_compiler.as_os_str().to_owned()]);
        arguments.extend(["-I".into(), self.include.as_os_str().to_owned()]);
        arguments.extend(["-o".into(), object.as_os_str().to_owned()]);
        arguments.push(source.as_os_str().to_owned());
        arguments
    }
}
