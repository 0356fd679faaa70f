//! The system's limits of threads and processes.

use rustix::process::{Resource, geteuid, getrlimit};
use std::fs;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Formats the known limits, for messages; `None` if there is no limit.
pub(super) fn text() -> Option<String> {
    let user = user_limit().map(|limit| format!("to {limit} by RLIMIT_NPROC"));
    let group = group_limit().map(|limit| format!("to {limit} by the pids cgroup"));
    let limits: Vec<_> = user.into_iter().chain(group).collect();
    let all = limits.join(" and ");
    (!limits.is_empty()).then(|| format!("processes and threads are limited {all}"))
}

/// Returns the limit of all processes and threads of the user. It does not apply to the superuser.
fn user_limit() -> Option<u64> {
    if geteuid().is_root() { None } else { getrlimit(Resource::Nproc).current }
}

/// Returns the lowest limit of the process's control groups.
fn group_limit() -> Option<u64> {
    let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
    let folders = memberships.lines().filter_map(folder_of);
    folders.filter_map(|(mount, folder)| least_of(&mount, &folder)).min()
}

/// Parses a line of `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`. In version 2, `CONTROLLERS` is empty. Returns
/// the mount and the folder of the control group; `None` if it does not count processes.
fn folder_of(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let is_counted = |list: &str| list.is_empty() || list.split(',').any(|name| name == "pids");
    let mount = is_counted(controllers).then(|| Path::new(CGROUPS).join(controllers))?;
    let folder = mount.join(path.trim_start_matches('/'));
    Some((mount, folder))
}

/// Returns the lowest limit of a control group and its ancestors. In a container, `folder` can be a path on the
/// host; then only the limit of the mount itself is found.
fn least_of(mount: &Path, folder: &Path) -> Option<u64> {
    let groups = folder.ancestors().take_while(|group| group.starts_with(mount));
    groups.filter_map(limit_of).min()
}

/// Returns the limit of a control group. `None` for `max`, which means no limit.
fn limit_of(group: &Path) -> Option<u64> {
    fs::read_to_string(group.join("pids.max")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_found() {
        let found = |line| folder_of(line).map(|(_, folder)| folder);
        assert_eq!(found("0::/user/one"), Some("/sys/fs/cgroup/user/one".into()));
        assert_eq!(found("8:pids:/one"), Some("/sys/fs/cgroup/pids/one".into()));
        assert_eq!(found("8:cpu,pids:/a:b"), Some("/sys/fs/cgroup/cpu,pids/a:b".into()));
        assert_eq!(found("4:memory:/one"), None);
        assert_eq!(found("nothing"), None);
    }

    #[test]
    fn the_lowest_limit_is_returned() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(least_of(dir.path(), &inner), None);
        fs::write(inner.join("pids.max"), "max\n").unwrap();
        fs::write(dir.path().join("outer/pids.max"), "16\n").unwrap();
        fs::write(dir.path().join("pids.max"), "32\n").unwrap();
        assert_eq!(least_of(dir.path(), &inner), Some(16));
        assert_eq!(least_of(dir.path(), &dir.path().join("absent")), Some(32));
    }
}
