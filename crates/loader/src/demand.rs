//! What a load asks of a device's memory, and whether the device has it.

use crate::error::{Error, InsufficientMemory};
use cuda_sys::DeviceKind;

/// Bytes of a device's memory that a load wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) device: DeviceKind,
    /// The one allocation for all weights.
    pub(crate) arena: u64,
    /// What converting them takes beside it for a while.
    pub(crate) transient: u64,
    /// What must stay free beside both.
    pub(crate) reserve: u64,
    /// What the weights may take at most, where the caller said so.
    pub(crate) limit: Option<u64>,
}

impl Demand {
    /// Holds the demand against a device of which nothing is allocated yet.
    pub(crate) fn check_before(&self, free: u64, total: u64) -> Result<(), Error> {
        if let Some(limit) = self.limit.filter(|&limit| self.arena > limit) {
            return Err(Error::InsufficientMemory(InsufficientMemory {
                required: self.arena,
                limit: Some(limit),
                ..self.shortage(free, total)
            }));
        }
        if self.required().saturating_add(self.reserve) > free {
            return Err(Error::InsufficientMemory(self.shortage(free, total)));
        }
        Ok(())
    }

    /// Holds the demand against what is free beside the weights: others may have been quicker.
    pub(crate) fn check_after(&self, free: u64, total: u64) -> Result<(), Error> {
        if self.transient.saturating_add(self.reserve) > free {
            // The weights are freed with this error; its figures are those of what comes then.
            let free = free.saturating_add(self.arena);
            return Err(Error::InsufficientMemory(self.shortage(free, total)));
        }
        Ok(())
    }

    /// The error of a device that refused although there was room by these figures.
    pub(crate) fn refused(&self, free: u64, total: u64) -> Error {
        Error::InsufficientMemory(self.shortage(free, total))
    }

    fn required(&self) -> u64 {
        self.arena.saturating_add(self.transient)
    }

    fn shortage(&self, free: u64, total: u64) -> InsufficientMemory {
        InsufficientMemory {
            device: self.device,
            required: self.required(),
            reserve: self.reserve,
            free,
            total,
            limit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        device: DeviceKind::Cuda(1),
        arena: 7000,
        transient: 300,
        reserve: 40,
        limit: None,
    };

    #[track_caller]
    fn message(result: Result<(), Error>) -> String {
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
        error.to_string()
    }

    #[test]
    fn weights_conversions_and_reserve_must_fit_together() {
        DEMAND.check_before(7340, 9000).unwrap();
        assert_eq!(
            message(DEMAND.check_before(7339, 9000)),
            "cuda:1 cannot hold the weights: 7300 bytes required, 40 bytes reserved beside them, \
             7339 bytes free of 9000 bytes total"
        );
        assert!(!message(Demand { reserve: 0, ..DEMAND }.check_before(1, 2)).contains("reserved"));
        for endless in
            [Demand { reserve: u64::MAX, ..DEMAND }, Demand { transient: u64::MAX, ..DEMAND }]
        {
            endless.check_before(u64::MAX - 1, u64::MAX).unwrap_err();
        }
    }

    #[test]
    fn what_others_take_meanwhile_is_the_same_error() {
        DEMAND.check_after(340, 9000).unwrap();
        let late = message(DEMAND.check_after(339, 9000));
        assert_eq!(late, message(DEMAND.check_before(7339, 9000)));
    }

    #[test]
    fn the_limit_is_on_the_weights_alone() {
        Demand { limit: Some(7000), ..DEMAND }.check_before(7340, 9000).unwrap();
        let over = Demand { limit: Some(6999), ..DEMAND }.check_before(7340, 9000);
        let text = message(over);
        assert!(text.contains("7000 bytes required") && text.contains("6999 bytes"), "{text}");
    }

    #[test]
    fn a_retry_can_help_only_where_the_device_is_large_enough() {
        let retriable = |total| DEMAND.check_before(1, total).unwrap_err().retriable();
        assert!(retriable(7340));
        assert!(!retriable(7339));
        let limited = Demand { limit: Some(1), ..DEMAND };
        assert!(!limited.check_before(9000, 9000).unwrap_err().retriable());
    }
}
