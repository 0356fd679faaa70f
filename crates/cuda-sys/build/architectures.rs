//! The GPU architectures to compile for, and how users name them.
//!
//! Nothing here reads the environment or runs a program; callers pass values and outputs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;

/// Variables with a list of architectures, in order of precedence: this crate's own, CMake's, and the one that
/// other Rust crates with kernels read.
pub(crate) const VARIABLES: [&str; 3] = ["CUDA_SYS_ARCHS", "CUDAARCHS", "CUDA_COMPUTE_CAP"];

/// The architectures if no variable is set: every generation since Turing that this nvcc knows. The GPU of the
/// building machine does not matter; there may be none.
const DEFAULT_ARCHITECTURES: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];

/// The oldest architecture of `all` and `all-major`: Turing, as in the default.
const OLDEST: u32 = 75;

const FORMS: &str = "a value looks like 80;90, or 8.9, sm_90, 90a, 90-real, 90-virtual, all, \
                     all-major or native";

/// A GPU architecture as nvcc names it after `sm_`: `90`, or `90a` with its extensions, which other GPUs lack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Architecture {
    number: u32,
    suffix: &'static str,
}

impl Architecture {
    fn plain(number: u32) -> Self {
        Self { number, suffix: "" }
    }

    /// Parses `90`, `90a`, `sm_90` or `9.0`.
    fn parse(name: &str) -> Option<Self> {
        let (name, with_point) = match name.strip_prefix("sm_") {
            Some(name) => (name, false),
            None => (name, name.contains('.')),
        };
        let digits = name.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let suffix = match &name[digits.len()..] {
            "" => "",
            "a" => "a",
            "f" => "f",
            _ => return None,
        };
        let number = if with_point {
            let (major, minor) = digits.split_once('.')?;
            (minor.len() == 1).then_some(())?;
            number(major)?.checked_mul(10)?.checked_add(number(minor)?)?
        } else {
            number(digits)?
        };
        Some(Self { number, suffix })
    }

    fn is_portable(&self) -> bool {
        self.suffix.is_empty()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.suffix)
    }
}

/// Parses digits without a sign.
fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    digits.parse().ok()
}

/// A list of architectures that the user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    variable: &'static str,
    value: String,
}

impl Request {
    /// Returns the first of the [`VARIABLES`] that is set and not empty. Reads all of them.
    pub(crate) fn choose(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let values = VARIABLES.map(|name| (name, variable(name).unwrap_or_default()));
        values.into_iter().find_map(|(variable, value)| {
            let value = value.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(Self { variable, value })
        })
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        let separates = |c: char| c == ';' || c == ',' || c.is_whitespace();
        self.value.split(separates).filter(|word| !word.is_empty())
    }

    /// Returns the error for this value. It names the variable and shows what a value looks like.
    fn wrong(&self, problem: &str) -> String {
        format!("{}={}: {problem}; {FORMS}", self.variable, self.value)
    }
}

/// The code to make: machine code runs on GPUs of one architecture; later GPUs compile PTX when they load it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    machine_code: BTreeSet<Architecture>,
    ptx: BTreeSet<Architecture>,
}

impl Targets {
    /// Makes machine code for each architecture, and PTX of the newest one that later GPUs can use.
    fn of(architectures: impl IntoIterator<Item = Architecture>) -> Self {
        let machine_code: BTreeSet<_> = architectures.into_iter().collect();
        let newest = machine_code.iter().rfind(|architecture| architecture.is_portable());
        let ptx = newest.cloned().into_iter().collect();
        Self { machine_code, ptx }
    }

    /// Makes machine code for each architecture, and PTX of the newest generation, as nvcc's `-arch=all` does.
    fn of_generations(architectures: impl IntoIterator<Item = u32>) -> Self {
        let numbers: BTreeSet<u32> = architectures.into_iter().collect();
        let newest = numbers.iter().rfind(|number| *number % 10 == 0).or(numbers.last());
        let ptx = newest.copied().map(Architecture::plain).into_iter().collect();
        Self { machine_code: numbers.into_iter().map(Architecture::plain).collect(), ptx }
    }

    /// Returns nvcc's flags: machine code first, ascending.
    pub(crate) fn flags(&self) -> Vec<String> {
        let machine_code =
            self.machine_code.iter().map(|name| format!("arch=compute_{name},code=sm_{name}"));
        let ptx = self.ptx.iter().map(|name| format!("arch=compute_{name},code=compute_{name}"));
        machine_code.chain(ptx).map(|code| format!("-gencode={code}")).collect()
    }
}

/// The targets as users see them: machine code first, ascending.
impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine_code = self.machine_code.iter().map(|name| format!("sm_{name}"));
        let ptx = self.ptx.iter().map(|name| format!("compute_{name}"));
        f.write_str(&machine_code.chain(ptx).collect::<Vec<_>>().join(" "))
    }
}

/// Returns the code to make for a request, or for the default if there is none.
///
/// `known` is the output of `nvcc --list-gpu-arch`. `native` returns the output of `nvcc -arch=native --dryrun`.
/// If a requested architecture is unknown, this is an error. Unknown architectures of the default list are left
/// out.
pub(crate) fn targets(
    request: Option<&Request>,
    known: &str,
    native: impl FnOnce() -> Result<String, String>,
) -> Result<Targets, String> {
    let mut known: Vec<u32> = known
        .lines()
        .filter_map(|line| Some(Architecture::parse(line.trim().strip_prefix("compute_")?)?.number))
        .collect();
    known.sort_unstable();
    let Some(request) = request else {
        let supported = DEFAULT_ARCHITECTURES.into_iter().filter(|number| known.contains(number));
        let targets = Targets::of(supported.map(Architecture::plain));
        return if targets == Targets::default() {
            Err(format!("this nvcc knows none of the architectures {DEFAULT_ARCHITECTURES:?}"))
        } else {
            Ok(targets)
        };
    };

    let words: Vec<_> = request.words().collect();
    let since_oldest = || known.iter().copied().filter(|number| *number >= OLDEST);
    match words[..] {
        [] => Err(request.wrong("it names no architecture")),
        ["native"] => of_this_machine(request, &known, &native()?),
        ["all"] => Ok(Targets::of_generations(since_oldest())),
        ["all-major"] => Ok(Targets::of_generations(
            since_oldest().filter(|number| number % 10 == 0 || *number == OLDEST),
        )),
        _ => of_list(request, &known, &words),
    }
}

fn of_list(request: &Request, known: &[u32], words: &[&str]) -> Result<Targets, String> {
    let (mut both, mut targets) = (Vec::new(), Targets::default());
    for word in words {
        if ["native", "all", "all-major"].contains(word) {
            return Err(request.wrong(&format!("`{word}` must be alone")));
        }
        let real = word.strip_suffix("-real");
        let ptx = word.strip_suffix("-virtual");
        let architecture = Architecture::parse(real.or(ptx).unwrap_or(word))
            .ok_or_else(|| request.wrong(&format!("`{word}` is no architecture")))?;
        check_known(request, known, &architecture)?;
        match (real, ptx) {
            (Some(_), _) => _ = targets.machine_code.insert(architecture),
            (_, Some(_)) => _ = targets.ptx.insert(architecture),
            _ => both.push(architecture),
        }
    }
    let both = Targets::of(both);
    targets.machine_code.extend(both.machine_code);
    targets.ptx.extend(both.ptx);
    Ok(targets)
}

fn of_this_machine(request: &Request, known: &[u32], dry_run: &str) -> Result<Targets, String> {
    let found = native_architectures(dry_run);
    if found.is_empty() {
        return Err(request.wrong("nvcc finds no GPU on this machine, so give the architectures"));
    }
    for architecture in &found {
        check_known(request, known, architecture)?;
    }
    Ok(Targets::of(found))
}

fn check_known(
    request: &Request,
    known: &[u32],
    architecture: &Architecture,
) -> Result<(), String> {
    if known.contains(&architecture.number) {
        return Ok(());
    }
    let known: Vec<_> = known.iter().map(u32::to_string).collect();
    Err(request.wrong(&format!(
        "this nvcc does not know the architecture {architecture}; it knows {}",
        known.join(", ")
    )))
}

/// Returns the architectures of this machine's GPUs from the output of `nvcc -arch=native --dryrun`. If there is no
/// GPU, nvcc prints a warning and takes its own default; then the list is empty.
fn native_architectures(dry_run: &str) -> BTreeSet<Architecture> {
    let warns = |line: &str| line.contains("warning") && line.contains("-arch=native");
    if dry_run.lines().any(warns) {
        return BTreeSet::new();
    }
    // The value of this macro is ten times the architecture, such as `860,900`.
    let lists = dry_run.split("__CUDA_ARCH_LIST__=").skip(1);
    lists
        .flat_map(|rest| {
            let end = rest.find(|c: char| c != ',' && !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].split(',').filter_map(number)
        })
        .map(|tenfold| Architecture::plain(tenfold / 10))
        .collect()
}
