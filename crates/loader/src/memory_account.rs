//! The driver's figures of free memory before and after the allocation.

use crate::error::Error;
use cuda_sys::{DeviceKind, MemoryInfo};

/// Free memory of a device before and after the allocation for all weights, in bytes, as its driver reports
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryAccount {
    /// Free before.
    pub free_before: u64,
    /// Free right after.
    pub free_after: u64,
    /// Total memory.
    pub total: u64,
}

impl MemoryAccount {
    /// How much less is free after the allocation. On a GPU that no other process uses, it is the size of the
    /// weights, rounded up by the driver. It includes what other processes allocate and free at the same
    /// time, so that it proves nothing and can be negative. On host memory it is about 0, because pages are
    /// taken when they are first written.
    pub fn taken(&self) -> i128 {
        i128::from(self.free_before) - i128::from(self.free_after)
    }

    /// From the memory before and after the allocation; `None` if one of them is unknown.
    pub(crate) fn between(before: Option<MemoryInfo>, after: Option<MemoryInfo>) -> Option<Self> {
        let (before, after) = before.zip(after)?;
        Some(Self { free_before: before.free, free_after: after.free, total: after.total })
    }

    /// Fails if a GPU's figures cannot be true, whatever other processes do: more free than total memory, or
    /// more free and allocated memory together than total memory. The weights are then not in the GPU's
    /// memory: for example, the driver moved them to the host. The host's figures are not checked: its
    /// memory may be swapped out, and a process's limits may change at any time.
    pub(crate) fn check(&self, device: DeviceKind, arena: u64) -> Result<(), Error> {
        let Self { free_before, free_after, total } = *self;
        tracing::debug!(free_before, free_after, total, arena, "memory allocated");
        if device == DeviceKind::Host {
            return Ok(());
        }
        let wrong = |what: String| Err(Error::Verification { what });
        for free in [free_before, free_after] {
            if free > total {
                return wrong(format!(
                    "{device} is said to have {free} bytes free of {total} bytes total"
                ));
            }
        }
        if arena > total - free_after {
            return wrong(format!(
                "{device} is said to have {free_after} bytes free of {total} bytes total beside an \
                 allocation of {arena} bytes"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: DeviceKind = DeviceKind::Cuda(0);

    fn account(free_before: u64, free_after: u64, total: u64) -> MemoryAccount {
        MemoryAccount { free_before, free_after, total }
    }

    #[track_caller]
    fn refused(account: MemoryAccount, device: DeviceKind, figures: &str) {
        let error = account.check(device, 70).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("VERIFICATION_FAILED", 9));
        assert!(error.to_string().contains(figures), "{error}");
    }

    #[test]
    fn memory_that_is_free_and_held_at_once_is_found() {
        refused(account(100, 31, 100), GPU, "31 bytes free of 100 bytes total beside");
        account(100, 30, 100).check(GPU, 70).unwrap();
        refused(account(100, u64::MAX, u64::MAX), GPU, "beside an allocation of 70 bytes");
    }

    #[test]
    fn more_free_memory_than_there_is_is_found() {
        refused(account(101, 30, 100), GPU, "101 bytes free of 100 bytes total");
        refused(account(100, 101, 100), GPU, "101 bytes free of 100 bytes total");
    }

    #[test]
    fn limits_of_the_host_may_change_meanwhile() {
        for (before, after, total) in [(101, 30, 100), (100, 101, 100), (100, 100, 100)] {
            account(before, after, total).check(DeviceKind::Host, 70).unwrap();
        }
        assert_eq!(MemoryAccount::between(None, None), None);
    }

    #[test]
    fn what_others_do_meanwhile_is_reported_and_no_error() {
        for (free_after, taken) in [(30, 60), (20, 70), (0, 90), (25, 65), (95, -5)] {
            let account = account(90, free_after, 200);
            account.check(GPU, 70).unwrap();
            assert_eq!(account.taken(), taken);
        }
    }
}
