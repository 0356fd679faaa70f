//! Free device memory before and after the allocation, as the driver reports it.

use crate::error::Error;
use cuda_sys::{DeviceKind, MemoryInfo};

/// Free device memory in bytes, before and after the allocation for all weights, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryAccount {
    /// Free bytes before the allocation.
    pub free_before: u64,
    /// Free bytes right after the allocation.
    pub free_after: u64,
    /// Total bytes of the device.
    pub total: u64,
}

impl MemoryAccount {
    /// Returns the decrease of free memory, in bytes. On a GPU that no other process uses, it is the size of
    /// the weights, rounded up by the driver. Other processes can allocate and free memory at the same time,
    /// so the figure can be negative and proves nothing. For host memory it is about 0, because the system
    /// allocates pages when they are first written.
    pub fn taken(&self) -> i128 {
        i128::from(self.free_before) - i128::from(self.free_after)
    }

    /// Returns the account of several devices together; `None` if that of one is unknown.
    pub(crate) fn sum(accounts: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        let sum = |sum: Self, of: Self| Self {
            free_before: sum.free_before.saturating_add(of.free_before),
            free_after: sum.free_after.saturating_add(of.free_after),
            total: sum.total.saturating_add(of.total),
        };
        let accounts = accounts.collect::<Option<Vec<_>>>()?;
        accounts.into_iter().reduce(sum)
    }

    /// Returns the account of these two readings; `None` if one of them is unknown.
    pub(crate) fn between(before: Option<MemoryInfo>, after: Option<MemoryInfo>) -> Option<Self> {
        let (before, after) = before.zip(after)?;
        Some(Self { free_before: before.free, free_after: after.free, total: after.total })
    }

    /// Fails if a GPU's figures are impossible: more free than total memory, or free memory and the allocation
    /// together larger than total memory. Other processes cannot cause this. The weights are then not in the
    /// GPU's memory: for example, the driver moved them to the host. The host's figures are not checked: its
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
                    "the driver reports for {device}: {free} bytes free of {total} bytes total"
                ));
            }
        }
        if arena > total - free_after {
            return wrong(format!(
                "the driver reports for {device}: {free_after} bytes free of {total} bytes total, in \
                 addition to an allocation of {arena} bytes"
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
    fn free_and_allocated_memory_above_the_total_is_refused() {
        refused(account(100, 31, 100), GPU, "31 bytes free of 100 bytes total, in addition");
        account(100, 30, 100).check(GPU, 70).unwrap();
        refused(account(100, u64::MAX, u64::MAX), GPU, "in addition to an allocation of 70 bytes");
    }

    #[test]
    fn free_memory_above_the_total_is_refused() {
        refused(account(101, 30, 100), GPU, "101 bytes free of 100 bytes total");
        refused(account(100, 101, 100), GPU, "101 bytes free of 100 bytes total");
    }

    #[test]
    fn figures_of_the_host_are_not_checked() {
        for (before, after, total) in [(101, 30, 100), (100, 101, 100), (100, 100, 100)] {
            account(before, after, total).check(DeviceKind::Host, 70).unwrap();
        }
        assert_eq!(MemoryAccount::between(None, None), None);
    }

    #[test]
    fn memory_changes_by_other_processes_are_reported_without_an_error() {
        for (free_after, taken) in [(30, 60), (20, 70), (0, 90), (25, 65), (95, -5)] {
            let account = account(90, free_after, 200);
            account.check(GPU, 70).unwrap();
            assert_eq!(account.taken(), taken);
        }
    }
}
