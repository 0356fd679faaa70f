//! Tests of how the engine reads the host's free memory from files of the kernel. The tests make such
//! files in a temporary folder.

use crate::bridge::ffi::{ProcessLimits, host_memory_below};
use crate::device::{MemoryBound, MemoryInfo};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// 1,000 units of the kernel's `kB` (1,024 bytes each). The figures in these tests are tens of megabytes
/// and more.
const KKB: u64 = 1000 * 1024;
const NO_LIMIT: u64 = u64::MAX;

/// A folder that replaces `/`.
struct Root(TempDir);

impl Root {
    /// A machine with 1,000,000 kB of memory, of which 800,000 kB are available.
    fn of_a_machine() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        root.file(
            "proc/meminfo",
            "MemTotal:  1000000 kB\nMemFree:  1 kB\nMemAvailable:   800000 kB\n",
        );
        root.file("proc/self/status", "Name:\tx\nVmSize:\t  300000 kB\nVmData:\t  200000 kB\n");
        root
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Writes the cgroups of the process, and the mounts as (root, folder, type and options).
    fn groups(&self, groups: &str, mounts: &[(&str, &str, &str)]) -> &Self {
        let mut info = "22 27 0:21 / /proc rw,relatime - proc proc rw\n".to_owned();
        for (root, folder, kind) in mounts {
            info += &format!("31 23 0:28 {root} {folder} rw,nosuid shared:9 master:1 - {kind}\n");
        }
        self.file("proc/self/cgroup", groups).file("proc/self/mountinfo", &info)
    }

    /// A cgroup of version 2.
    fn v2(&self, folder: &str, max: &str, high: &str, current: u64, file_pages: u64) -> &Self {
        self.file(&format!("{folder}/memory.max"), &format!("{max}\n"))
            .file(&format!("{folder}/memory.high"), &format!("{high}\n"))
            .file(&format!("{folder}/memory.current"), &format!("{current}\n"))
            .file(
                &format!("{folder}/memory.stat"),
                &format!("anon 5\nfile 9\ninactive_file {file_pages}\nactive_file 0\n"),
            )
    }

    /// A cgroup of version 1.
    fn v1(&self, folder: &str, limit: u64, usage: u64, inactive: u64, active: u64) -> &Self {
        self.file(&format!("{folder}/memory.limit_in_bytes"), &format!("{limit}\n"))
            .file(&format!("{folder}/memory.usage_in_bytes"), &format!("{usage}\n"))
            .file(
                &format!("{folder}/memory.stat"),
                &format!(
                    "cache 7\ninactive_file 1\ntotal_cache 9\ntotal_inactive_file {inactive}\n\
                     total_active_file {active}\n"
                ),
            )
    }

    fn memory_within(&self, address_space: u64, data: u64) -> Option<MemoryInfo> {
        memory_below(self.0.path(), address_space, data)
    }

    #[track_caller]
    fn has(&self, free: u64, total: u64, bound: MemoryBound) {
        let want = MemoryInfo { free, total, bound };
        assert_eq!(self.memory_within(NO_LIMIT, NO_LIMIT), Some(want));
    }

    /// Checks that the limit of the cgroup decides, and that this number of bytes is unused. The kernel's
    /// own share of them is not free: page tables for the memory and for a mapped file, and 2 MiB for
    /// threads.
    #[track_caller]
    fn leaves(&self, unused: u64, limit: u64) {
        let kernel = limit / 512 * 2 + (2 << 20);
        self.has(unused.saturating_sub(kernel), limit, MemoryBound::Cgroup);
    }
}

fn memory_below(root: &Path, address_space: u64, data: u64) -> Option<MemoryInfo> {
    let limits = ProcessLimits { address_space, data };
    MemoryInfo::from_ffi(&host_memory_below(root.to_str().unwrap(), &limits).unwrap()).unwrap()
}

#[test]
fn without_limits_the_available_memory_is_free() {
    Root::of_a_machine().has(800 * KKB, 1000 * KKB, MemoryBound::Device);
}

#[test]
fn unreadable_figures_are_unknown_and_the_others_count() {
    let root = Root(tempfile::tempdir().unwrap());
    assert_eq!(root.memory_within(NO_LIMIT, NO_LIMIT), None);
    let limited = MemoryInfo { free: 5000, total: 5000, bound: MemoryBound::AddressSpace };
    assert_eq!(root.memory_within(5000, NO_LIMIT), Some(limited));
    for text in ["", "MemTotal: 10 kB\n", "MemTotal: x kB\nMemAvailable: -1 kB\n", "\n\n:\n"] {
        root.file("proc/meminfo", text);
        assert_eq!(root.memory_within(NO_LIMIT, NO_LIMIT), None, "{text:?}");
    }
}

#[test]
fn memory_in_use_counts_against_the_limits_of_the_process() {
    let root = Root::of_a_machine();
    for (address_space, data, free, total, bound) in [
        (900 * KKB, NO_LIMIT, 600 * KKB, 900 * KKB, MemoryBound::AddressSpace),
        (NO_LIMIT, 900 * KKB, 700 * KKB, 900 * KKB, MemoryBound::Data),
        (1000 * KKB, 950 * KKB, 700 * KKB, 950 * KKB, MemoryBound::AddressSpace),
        (2000 * KKB, 2000 * KKB, 800 * KKB, 1000 * KKB, MemoryBound::Device),
        // The limit was lowered below the memory that the process already has.
        (100 * KKB, NO_LIMIT, 0, 100 * KKB, MemoryBound::AddressSpace),
        (NO_LIMIT, 0, 0, 0, MemoryBound::Data),
    ] {
        let want = Some(MemoryInfo { free, total, bound });
        assert_eq!(root.memory_within(address_space, data), want, "{address_space} {data}");
    }
}

const V2: &str = "cgroup2 cgroup2 rw";
const V1: &str = "cgroup cgroup rw,memory";

#[test]
fn every_group_from_the_process_up_to_the_mount_counts() {
    let root = Root::of_a_machine();
    root.groups("0::/user/job\n", &[("/", "/sys/fs/cgroup", V2)]);
    root.v2("/sys/fs/cgroup/user/job", "max", "max", 90_000_000, 0);
    // The root cgroup has no limit files.
    root.has(800 * KKB, 1000 * KKB, MemoryBound::Device);
    root.v2("/sys/fs/cgroup/user", "600000000", "max", 200_000_000, 50_000_000);
    root.leaves(450_000_000, 600_000_000);
    root.v2("/sys/fs/cgroup/user/job", "300000000", "max", 90_000_000, 90_000_000);
    root.leaves(300_000_000, 300_000_000);
    root.v2("/sys/fs/cgroup/user/job", "300000000", "200000000", 90_000_000, 0);
    root.leaves(110_000_000, 200_000_000);
    // The kernel's figures are read one after the other, so they can contradict each other.
    root.v2("/sys/fs/cgroup/user/job", "300000000", "max", 300_001_000, 0);
    root.leaves(0, 300_000_000);
    root.v2("/sys/fs/cgroup/user/job", "300000000", "max", 1_000_000, 2_000_000);
    root.leaves(300_000_000, 300_000_000);
    // The cgroup of the process is not visible. The limits of its ancestors still apply.
    root.groups("0::/user/job/gone\n", &[("/", "/sys/fs/cgroup", V2)]);
    root.leaves(300_000_000, 300_000_000);
}

#[test]
fn version_1_has_its_own_files() {
    let root = Root::of_a_machine();
    let hybrid =
        [("/", "/sys/fs/cgroup/cpu", "cgroup cgroup rw,cpu,memory_like"), ("/", "/mem dir", V1)];
    let escaped = hybrid.map(|(root, folder, kind)| (root, folder.replace(' ', "\\040"), kind));
    let mounts: Vec<_> =
        escaped.iter().map(|(root, folder, kind)| (*root, folder.as_str(), *kind)).collect();
    root.groups("9:cpu:/other\n4:hugetlb,memory:/a:b\n0::/\n", &mounts);
    // The value for "no limit" is the largest number of whole pages.
    root.v1("/mem dir", 9_223_372_036_854_771_712, 1 << 40, 0, 0);
    root.has(800 * KKB, 1000 * KKB, MemoryBound::Device);
    root.v1("/mem dir/a:b", 500_000_000, 400_000_000, 100_000_000, 50_000_000);
    root.leaves(250_000_000, 500_000_000);
}

#[test]
fn in_a_container_the_mount_is_the_group_of_the_process() {
    for (group, mount) in [
        // The container has its own cgroup namespace.
        ("/", "/"),
        // The container has no cgroup namespace, and only its part of the hierarchy is mounted.
        ("/docker/1", "/docker/1"),
        // The cgroup is outside the mounted part.
        ("/docker/1", "/docker/2"),
        ("/docker/12", "/docker/1"),
        ("/../other", "/"),
        ("/..", "/"),
    ] {
        for (line, kind) in [(format!("0::{group}\n"), V2), (format!("3:memory:{group}\n"), V1)] {
            let root = Root::of_a_machine();
            root.groups(&line, &[(mount, "/sys/fs/cgroup", kind)]);
            match kind {
                V2 => root.v2("/sys/fs/cgroup", "600000000", "max", 100_000_000, 0),
                _ => root.v1("/sys/fs/cgroup", 600_000_000, 100_000_000, 0, 0),
            };
            root.leaves(500_000_000, 600_000_000);
        }
    }
    let root = Root::of_a_machine();
    root.groups("0::/docker/1/job\n", &[("/docker/1", "/sys/fs/cgroup", V2)]);
    root.v2("/sys/fs/cgroup/job", "600000000", "max", 100_000_000, 0);
    root.leaves(500_000_000, 600_000_000);
}

#[test]
fn malformed_lines_are_skipped() {
    let root = Root::of_a_machine();
    for line in ["", "0", "0:", "0::", "::", "4:memory", "0::x", "a\0b", ":::", "0::/..a/b"] {
        root.file("proc/self/cgroup", line);
        for mount in
            ["", "-", "- cgroup2 a b", "1 2 3 / /x - cgroup2", "1 2 3 \\0 \\04 - cgroup2 a b\n"]
        {
            root.file("proc/self/mountinfo", mount);
            root.has(800 * KKB, 1000 * KKB, MemoryBound::Device);
        }
    }
}
