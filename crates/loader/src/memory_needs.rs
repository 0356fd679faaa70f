//! Compares the device memory that a load needs with the device's free memory.

use crate::error::{Error, InsufficientMemory};
use cuda_sys::{DeviceKind, MemoryInfo};

/// Bytes that a load needs of one device. If several parts are on the device, all of them count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryNeeds {
    pub(crate) device: DeviceKind,
    /// The allocations for the weights.
    pub(crate) arena: u64,
    /// The engine's own memory on the device: for conversions, small operations, and bytes for other devices.
    pub(crate) conversion: u64,
    /// The staging ring, if it will be allocated in the memory of this device.
    pub(crate) staging: u64,
    /// Bytes that must stay free.
    pub(crate) reserve: u64,
    /// The caller's limit for the weights.
    pub(crate) limit: Option<u64>,
}

impl MemoryNeeds {
    /// Compares the needs with the limit and with the free memory before the allocation. If the free memory is
    /// unknown, checks only the limit.
    pub(crate) fn check_before(&self, memory: Option<MemoryInfo>) -> Result<(), Error> {
        if let Some(limit) = self.limit.filter(|&limit| self.arena > limit) {
            return Err(Error::InsufficientMemory(InsufficientMemory {
                required: self.arena,
                staging: 0,
                limit: Some(limit),
                ..self.shortage(memory)
            }));
        }
        let wanted = self.required().saturating_add(self.reserve);
        if memory.is_some_and(|memory| wanted > memory.free) {
            return Err(self.refused(memory));
        }
        Ok(())
    }

    /// Compares the remaining needs with the free memory after the allocation, because other processes may have
    /// allocated memory at the same time.
    pub(crate) fn check_after(&self, memory: Option<MemoryInfo>) -> Result<(), Error> {
        let wanted = self.conversion.saturating_add(self.reserve);
        let Some(mut memory) = memory.filter(|memory| wanted > memory.free) else { return Ok(()) };
        // This error frees the weights, so its figures count their bytes as free.
        memory.free = memory.free.saturating_add(self.arena);
        Err(self.refused(Some(memory)))
    }

    /// Returns the error for a device with this much memory.
    pub(crate) fn refused(&self, memory: Option<MemoryInfo>) -> Error {
        Error::InsufficientMemory(self.shortage(memory))
    }

    /// Returns the bytes that the load allocates.
    pub(crate) fn required(&self) -> u64 {
        self.arena.saturating_add(self.conversion).saturating_add(self.staging)
    }

    fn shortage(&self, memory: Option<MemoryInfo>) -> InsufficientMemory {
        InsufficientMemory {
            device: self.device,
            required: self.required(),
            staging: self.staging,
            reserve: self.reserve,
            memory,
            limit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_sys::MemoryBound;

    const NEEDS: MemoryNeeds = MemoryNeeds {
        device: DeviceKind::Cuda(1),
        arena: 7000,
        conversion: 300,
        staging: 0,
        reserve: 40,
        limit: None,
    };
    const ON_HOST: MemoryNeeds =
        MemoryNeeds { device: DeviceKind::Host, conversion: 0, staging: 500, ..NEEDS };

    /// Returns a `MemoryInfo` with these figures. Only the engine can create one, so this changes the host's.
    fn memory_of(free: u64, total: u64) -> Option<MemoryInfo> {
        let host = cuda_sys::Device::open(DeviceKind::Host).unwrap();
        let mut memory = host.memory().unwrap().unwrap();
        (memory.free, memory.total, memory.bound) = (free, total, MemoryBound::Cgroup);
        Some(memory)
    }

    #[track_caller]
    fn message(result: Result<(), Error>) -> String {
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
        error.to_string()
    }

    #[test]
    fn weights_conversions_and_reserve_must_fit_together() {
        NEEDS.check_before(memory_of(7340, 9000)).unwrap();
        assert_eq!(
            message(NEEDS.check_before(memory_of(7339, 9000))),
            "cuda:1 cannot hold the weights: 7300 bytes required, 40 bytes reserved in addition, \
             7339 bytes free of 9000 bytes total"
        );
        let without = MemoryNeeds { reserve: 0, ..NEEDS }.check_before(memory_of(1, 2));
        assert!(!message(without).contains("reserved"));
        for excessive in [
            MemoryNeeds { reserve: u64::MAX, ..NEEDS },
            MemoryNeeds { conversion: u64::MAX, ..NEEDS },
        ] {
            excessive.check_before(memory_of(u64::MAX - 1, u64::MAX)).unwrap_err();
        }
    }

    #[test]
    fn on_the_host_staging_memory_counts_and_the_limit_is_named() {
        ON_HOST.check_before(memory_of(7540, 9000)).unwrap();
        let error = ON_HOST.check_before(memory_of(7539, 9000));
        assert_eq!(
            message(error),
            "host cannot hold the weights: 7500 bytes required, 500 bytes of them for staging, \
             40 bytes reserved in addition, 7539 bytes free of 9000 bytes total, limited by the \
             memory cgroup"
        );
        MemoryNeeds { staging: u64::MAX, ..ON_HOST }
            .check_before(memory_of(u64::MAX - 1, u64::MAX))
            .unwrap_err();
    }

    #[test]
    fn large_figures_have_a_binary_unit() {
        let needs = MemoryNeeds { arena: 7_642_158_804, reserve: 5 << 20, ..NEEDS };
        assert_eq!(
            message(needs.check_before(memory_of(1 << 30, 80 << 30))),
            "cuda:1 cannot hold the weights: 7642159104 bytes required (7.12 GiB), 5242880 bytes \
             reserved in addition (5.00 MiB), 1073741824 bytes free of 85899345920 bytes total \
             (1.00 GiB of 80.00 GiB)"
        );
    }

    #[test]
    fn unknown_free_memory_refuses_no_load() {
        NEEDS.check_before(None).unwrap();
        NEEDS.check_after(None).unwrap();
        let over = MemoryNeeds { limit: Some(1), ..NEEDS }.check_before(None);
        assert!(message(over).ends_with("the free memory is unknown"));
        assert!(NEEDS.refused(None).retriable());
    }

    #[test]
    fn memory_taken_by_others_during_the_allocation_gives_the_same_error() {
        NEEDS.check_after(memory_of(340, 9000)).unwrap();
        let late = message(NEEDS.check_after(memory_of(339, 9000)));
        assert_eq!(late, message(NEEDS.check_before(memory_of(7339, 9000))));
    }

    #[test]
    fn the_limit_applies_to_the_weights_alone() {
        MemoryNeeds { limit: Some(7000), ..ON_HOST }.check_before(memory_of(7540, 9000)).unwrap();
        let over = MemoryNeeds { limit: Some(6999), ..ON_HOST }.check_before(memory_of(7540, 9000));
        let text = message(over);
        assert!(text.contains("7000 bytes required") && text.contains("6999 bytes"), "{text}");
        assert!(!text.contains("staging"), "{text}");
    }

    #[test]
    fn an_error_is_retriable_only_if_the_device_is_large_enough() {
        let retriable = |total| NEEDS.check_before(memory_of(1, total)).unwrap_err().retriable();
        assert!(retriable(7340));
        assert!(!retriable(7339));
        let limited = MemoryNeeds { limit: Some(1), ..NEEDS };
        assert!(!limited.check_before(memory_of(9000, 9000)).unwrap_err().retriable());
    }
}
