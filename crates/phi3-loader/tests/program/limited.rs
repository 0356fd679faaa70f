//! Runs the program under a limit of threads, addresses, data or memory.

use crate::codes::is_sanitized;
use crate::program::PROGRAM;
use crate::trial::timed;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const MIB: u64 = 1 << 20;

/// The kind of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Processes and threads of the user (`RLIMIT_NPROC`).
    Processes,
    /// Processes and threads of a cgroup.
    GroupProcesses,
    AddressSpace,
    Data,
    /// Memory of a cgroup.
    GroupMemory,
}

pub(crate) const KINDS: [Kind; 5] =
    [Kind::Processes, Kind::GroupProcesses, Kind::AddressSpace, Kind::Data, Kind::GroupMemory];

impl Kind {
    /// Returns whether limits of this kind can be set here and have an effect. The shadow memory of a sanitizer
    /// exceeds all memory limits.
    pub(crate) fn works(self) -> bool {
        let (too_little, enough) = match self {
            Self::Processes | Self::GroupProcesses => (1, 64),
            _ if is_sanitized() => return false,
            Self::AddressSpace | Self::Data | Self::GroupMemory => (8 * MIB, 1 << 30),
        };
        let succeeds = |limit, line: &[&str]| {
            let applied = Limited { kind: self, limit, user: 0 }.applied()?;
            let line = applied.line(line.iter().map(OsString::from).collect());
            Some(timed(&line).output().ok()?.status.success())
        };
        // The command starts a second process and uses some memory.
        let hungry = "head -c 30000000 /dev/zero | tail -c 30000000 > /dev/null";
        let hungry = ["sh", "-c", hungry];
        succeeds(too_little, &hungry) == Some(false) && succeeds(enough, &hungry) == Some(true)
    }

    /// Chooses a random limit. Most limits are near the minimum that the program needs.
    pub(crate) fn choose(self, random: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Processes | Self::GroupProcesses => random.u64(1..=16),
            // The program and its libraries need about 12 MiB of addresses and 1 MiB of data. In a cgroup
            // of less than 2 MiB, the kernel kills the program when it reads a file.
            Self::AddressSpace => 11 * MIB + more(random),
            Self::Data => more(random),
            Self::GroupMemory => 2 * MIB + more(random),
        }
    }
}

/// Returns a random number of bytes up to 1 GiB. Each order of magnitude has the same probability.
fn more(random: &mut fastrand::Rng) -> u64 {
    let most = (MIB / 16) << random.u32(0..=14);
    random.u64(0..=most)
}

/// A limit for one run of the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited {
    pub(crate) kind: Kind,
    pub(crate) limit: u64,
    /// The number of the user who runs the program. Each thread of a test has its own user, because the kernel
    /// counts processes by user.
    pub(crate) user: u32,
}

impl Limited {
    /// Runs the program under the limit. Panics if the limit cannot be set here.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let line = [PROGRAM].iter().chain(arguments).map(OsString::from).collect();
        timed(&self.applied().unwrap().line(line)).output().unwrap()
    }

    /// Sets up the limit. Returns `None` if a cgroup cannot be created.
    pub(crate) fn applied(&self) -> Option<Applied> {
        let Self { kind, limit, user } = *self;
        let words = |words: &[String]| words.iter().map(OsString::from).collect();
        let (prefix, group) = match kind {
            Kind::Processes => (
                words(&[
                    "setpriv".to_owned(),
                    format!("--reuid={}", 65534 - user),
                    "--clear-groups".to_owned(),
                    "prlimit".to_owned(),
                    format!("--nproc={limit}"),
                ]),
                None,
            ),
            Kind::AddressSpace => (words(&["prlimit".to_owned(), format!("--as={limit}")]), None),
            Kind::Data => (words(&["prlimit".to_owned(), format!("--data={limit}")]), None),
            Kind::GroupProcesses | Kind::GroupMemory => {
                let group = Group::with_limit(kind, limit)?;
                let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
                let path = group.0.to_str()?.to_owned();
                (words(&["sh".to_owned(), "-c".to_owned(), enter.to_owned(), path]), Some(group))
            }
        };
        Some(Applied { prefix, _group: group })
    }
}

/// The words in front of a command that run it under a limit.
pub(crate) struct Applied {
    prefix: Vec<OsString>,
    _group: Option<Group>,
}

impl Applied {
    pub(crate) fn line(&self, command: Vec<OsString>) -> Vec<OsString> {
        self.prefix.iter().cloned().chain(command).collect()
    }
}

/// A cgroup. It is removed on drop.
struct Group(PathBuf);

impl Group {
    fn with_limit(kind: Kind, limit: u64) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("phi3-loader-test-{}-{number}", std::process::id());
        let (controller, files) = match kind {
            Kind::GroupMemory => ("memory", ["memory.limit_in_bytes", "memory.max"]),
            _ => ("pids", ["pids.max"; 2]),
        };
        parents(controller).into_iter().find_map(|parent| {
            // Needed for cgroup version 2. If the controller is refused, the file of the limit does not exist.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            let group = Self(parent.join(&name));
            fs::create_dir(&group.0).ok()?;
            let file = files.iter().map(|file| group.0.join(file)).find(|file| file.exists())?;
            fs::write(file, limit.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The cgroup is empty, because all processes in it have ended.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Returns the cgroups in which a new one may be created: the test's own cgroup and its ancestors.
fn parents(controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mount = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            list if list.split(',').any(|one| one == controller) => {
                format!("/sys/fs/cgroup/{list}")
            }
            _ => continue,
        };
        let own = Path::new(&mount).join(path.trim_start_matches('/'));
        let up_to_mount = own.ancestors().take_while(|parent| parent.starts_with(&mount));
        found.extend(up_to_mount.map(Path::to_owned));
    }
    found
}

/// Prints a line, also if the test passes: the harness captures only the output of the print macros.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
