//! Tests of what the engine says of the host's memory, where the kernel's files stand below another
//! root.

use crate::bridge::ffi::{ProcessLimits, host_memory_below};
use crate::device::{MemoryBound, MemoryInfo};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const NO_LIMIT: u64 = u64::MAX;

/// A folder of files as the kernel's.
struct Root(TempDir);

impl Root {
    /// A machine of 1000 MiB, of which 800 MiB are available.
    fn of_a_machine() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        root.file(
            "proc/meminfo",
            "MemTotal:  1024000 kB\nMemFree:  1 kB\nMemAvailable:   819200 kB\n",
        );
        root.file("proc/self/status", "Name:\tx\nVmSize:\t  307200 kB\nVmData:\t  204800 kB\n");
        root
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Mounts as `/proc/self/mountinfo` has them, and the groups of the process.
    fn groups(&self, groups: &str, mounts: &[(&str, &str, &str)]) -> &Self {
        let mut info = "22 27 0:21 / /proc rw,relatime - proc proc rw\n".to_owned();
        for (root, folder, kind) in mounts {
            info += &format!("31 23 0:28 {root} {folder} rw,nosuid shared:9 master:1 - {kind}\n");
        }
        self.file("proc/self/cgroup", groups).file("proc/self/mountinfo", &info)
    }

    /// A group of version 2.
    fn v2(&self, folder: &str, max: &str, high: &str, current: u64, file_pages: u64) -> &Self {
        self.file(&format!("{folder}/memory.max"), &format!("{max}\n"))
            .file(&format!("{folder}/memory.high"), &format!("{high}\n"))
            .file(&format!("{folder}/memory.current"), &format!("{current}\n"))
            .file(
                &format!("{folder}/memory.stat"),
                &format!("anon 5\nfile 9\ninactive_file {file_pages}\nactive_file 0\n"),
            )
    }

    /// A group of version 1.
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

    /// `unused` is what the groups' own figures leave.
    #[track_caller]
    fn has_in_group(&self, unused: u64, limit: u64) {
        let free = unused.saturating_sub(taken_by_the_kernel(limit));
        self.has(free, limit, MemoryBound::Cgroup);
    }
}

/// What the kernel takes of a group whose limit is used up: page tables for memory and mapped files,
/// and two MiB for threads.
const fn taken_by_the_kernel(limit: u64) -> u64 {
    limit / 512 * 2 + (2 << 20)
}

fn memory_below(root: &Path, address_space: u64, data: u64) -> Option<MemoryInfo> {
    let limits = ProcessLimits { address_space, data };
    MemoryInfo::from_ffi(&host_memory_below(root.to_str().unwrap(), &limits).unwrap())
}

#[test]
fn a_machine_without_limits_has_what_is_available() {
    Root::of_a_machine().has(800 * MIB, 1000 * MIB, MemoryBound::Device);
}

#[test]
fn what_cannot_be_read_is_unknown_and_what_can_be_still_counts() {
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
fn limits_of_the_process_count_what_it_has_already() {
    let root = Root::of_a_machine();
    for (address_space, data, free, total, bound) in [
        (900 * MIB, NO_LIMIT, 600 * MIB, 900 * MIB, MemoryBound::AddressSpace),
        (NO_LIMIT, 900 * MIB, 700 * MIB, 900 * MIB, MemoryBound::Data),
        (1000 * MIB, 950 * MIB, 700 * MIB, 950 * MIB, MemoryBound::AddressSpace),
        (2000 * MIB, 2000 * MIB, 800 * MIB, 1000 * MIB, MemoryBound::Device),
        // More than the limit allows, as where it was lowered.
        (100 * MIB, NO_LIMIT, 0, 100 * MIB, MemoryBound::AddressSpace),
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
    // The root has no such files.
    root.has(800 * MIB, 1000 * MIB, MemoryBound::Device);
    root.v2("/sys/fs/cgroup/user", "600000000", "max", 200_000_000, 50_000_000);
    root.has_in_group(450_000_000, 600_000_000);
    root.v2("/sys/fs/cgroup/user/job", "300000000", "max", 90_000_000, 90_000_000);
    root.has_in_group(300_000_000, 300_000_000);
    root.v2("/sys/fs/cgroup/user/job", "300000000", "200000000", 90_000_000, 0);
    root.has_in_group(110_000_000, 200_000_000);
    // Used beyond its limit, and file pages beyond what is used: figures are not read at once.
    root.v2("/sys/fs/cgroup/user/job", "300000000", "max", 300_000_001, 0);
    root.has_in_group(0, 300_000_000);
    root.v2("/sys/fs/cgroup/user/job", "300000000", "max", 1_000_000, 2_000_000);
    root.has_in_group(300_000_000, 300_000_000);
    // The group is gone, and the process moved up.
    root.groups("0::/user/job/gone\n", &[("/", "/sys/fs/cgroup", V2)]);
    root.has_in_group(300_000_000, 300_000_000);
}

#[test]
fn version_1_has_the_files_of_its_own() {
    let root = Root::of_a_machine();
    let hybrid =
        [("/", "/sys/fs/cgroup/cpu", "cgroup cgroup rw,cpu,memory_like"), ("/", "/mem dir", V1)];
    let escaped = hybrid.map(|(root, folder, kind)| (root, folder.replace(' ', "\\040"), kind));
    let mounts: Vec<_> =
        escaped.iter().map(|(root, folder, kind)| (*root, folder.as_str(), *kind)).collect();
    root.groups("9:cpu:/other\n4:hugetlb,memory:/a:b\n0::/\n", &mounts);
    // No limit is the largest number of whole pages.
    root.v1("/mem dir", 9_223_372_036_854_771_712, 1 << 40, 0, 0);
    root.has(800 * MIB, 1000 * MIB, MemoryBound::Device);
    root.v1("/mem dir/a:b", 500_000_000, 400_000_000, 100_000_000, 50_000_000);
    root.has_in_group(250_000_000, 500_000_000);
}

#[test]
fn in_a_container_the_mount_is_the_groups_own() {
    for (group, mount) in [
        // A namespace of its own.
        ("/", "/"),
        // None, and the mount shows a part of the machine's groups.
        ("/docker/1", "/docker/1"),
        // Paths that lead to groups which cannot be seen.
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
            root.has_in_group(500_000_000, 600_000_000);
        }
    }
    let root = Root::of_a_machine();
    root.groups("0::/docker/1/job\n", &[("/docker/1", "/sys/fs/cgroup", V2)]);
    root.v2("/sys/fs/cgroup/job", "600000000", "max", 100_000_000, 0);
    root.has_in_group(500_000_000, 600_000_000);
}

#[test]
fn lines_of_any_shape_are_passed_over() {
    let root = Root::of_a_machine();
    for line in ["", "0", "0:", "0::", "::", "4:memory", "0::x", "a\0b", ":::", "0::/..a/b"] {
        root.file("proc/self/cgroup", line);
        for mount in
            ["", "-", "- cgroup2 a b", "1 2 3 / /x - cgroup2", "1 2 3 \\0 \\04 - cgroup2 a b\n"]
        {
            root.file("proc/self/mountinfo", mount);
            root.has(800 * MIB, 1000 * MIB, MemoryBound::Device);
        }
    }
}
