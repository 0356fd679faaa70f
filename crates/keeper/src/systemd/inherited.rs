//! Descriptors that systemd gave to this process.

use std::env;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

use crate::Error;

/// The number of the first one.
const FIRST: RawFd = 3;

/// Takes possession of the descriptors. Returns them with their names; none if there are none for this process, or
/// if they were taken before.
pub(super) fn take() -> Result<Vec<(String, OwnedFd)>, Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let variable = |name| env::var(name).ok();
    let is_ours = variable("LISTEN_PID") == Some(std::process::id().to_string());
    let Some(count) = variable("LISTEN_FDS").filter(|_| is_ours) else { return Ok(Vec::new()) };
    let contradiction = |problem| Error::protocol(format!("LISTEN_FDS is {count:?}: {problem}"));
    let number: u16 = count.parse().map_err(|_| contradiction("it is no number of descriptors"))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + RawFd::from(number))
        .map(|fd| {
            // Opening nothing, this does not fail for want of descriptors.
            if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
                return Err(contradiction("there are fewer open descriptors"));
            }
            // SAFETY: the descriptor is open. By systemd's convention it was opened for this process, whose number is in
            // LISTEN_PID, and belongs to the code that reads LISTEN_FDS. That is this function, only once; its callers
            // are told that other code must not do the same.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)
                .map_err(Error::io("use a descriptor of systemd"))?;
            Ok((names.next().unwrap_or_default(), fd))
        })
        .collect()
}
