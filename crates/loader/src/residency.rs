//! Checks that every weight is in the memory of the right device.

use crate::error::Error;
use crate::part::LoadedPart;
use cuda_sys::DeviceKind;
use model_phi3::{PlacedPart, PlannedSlot};

/// Result of a successful residency check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Residency {
    /// Number of slots whose first and last byte the driver located.
    pub pointers_checked: u32,
    /// Bytes of the allocations for all weights. Equal to the plan's.
    pub vram_bytes: u64,
}

impl Residency {
    /// Returns the result for all devices together.
    pub(crate) fn sum(parts: &[Self]) -> Self {
        Self {
            pointers_checked: parts.iter().map(|part| part.pointers_checked).sum(),
            vram_bytes: parts.iter().map(|part| part.vram_bytes).sum(),
        }
    }
}

/// Compares the size of the allocation with the plan, and queries the driver for the location of the first
/// and the last byte of every slot.
pub(crate) fn check(part: &LoadedPart) -> Result<Residency, Error> {
    let buffer = &part.buffer;
    let arena = Arena { address: buffer.address(), bytes: buffer.len(), device: buffer.device() };
    arena.check(part.plan(), |offset| {
        let location = buffer.locate(offset)?;
        Ok((location.address, location.device))
    })
}

/// The allocation for the weights of a device.
#[derive(Clone, Copy)]
struct Arena {
    address: u64,
    bytes: u64,
    device: DeviceKind,
}

impl Arena {
    /// Checks the allocation and all slots. `locate` returns address and device of the byte at an offset.
    fn check(
        &self,
        plan: &PlacedPart,
        locate: impl Fn(u64) -> Result<(u64, DeviceKind), Error>,
    ) -> Result<Residency, Error> {
        if self.bytes != plan.device_bytes() {
            return wrong(format!(
                "the allocation on {} has {} bytes, the plan {}",
                self.device,
                self.bytes,
                plan.device_bytes()
            ));
        }
        let mut pointers_checked = 0;
        for slot in plan.slots() {
            self.check_slot(&slot.planned, &locate)?;
            pointers_checked += 1;
        }
        Ok(Residency { pointers_checked, vram_bytes: self.bytes })
    }

    fn check_slot(
        &self,
        PlannedSlot { slot, dest, .. }: &PlannedSlot,
        locate: impl Fn(u64) -> Result<(u64, DeviceKind), Error>,
    ) -> Result<(), Error> {
        if dest.is_empty() || dest.end > self.bytes {
            return wrong(format!(
                "{slot} takes bytes {dest:?} of an allocation of {} bytes on {}",
                self.bytes, self.device
            ));
        }
        for offset in [dest.start, dest.end - 1] {
            let (address, device) = locate(offset)?;
            if device != self.device {
                return wrong(format!(
                    "{slot} at {address:#x} is in the memory of {device}, not of {}",
                    self.device
                ));
            }
            let expected = self.address + offset;
            if address != expected {
                return wrong(format!(
                    "{slot} is at {address:#x} on {}, expected at {expected:#x}",
                    self.device
                ));
            }
        }
        Ok(())
    }
}

fn wrong<T>(what: String) -> Result<T, Error> {
    Err(Error::Verification { what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_plan;
    use model_phi3::Slot;

    const BASE: u64 = 0x7f00_0000_0000;
    const GPU: DeviceKind = DeviceKind::Cuda(1);

    fn arena(plan: &PlacedPart) -> Arena {
        Arena { address: BASE, bytes: plan.device_bytes(), device: GPU }
    }

    /// Returns the error of a check in which the driver reports this location for the byte at `offset`.
    #[track_caller]
    fn misplaced(plan: &PlacedPart, offset: u64, address: u64, device: DeviceKind) -> String {
        let locate =
            |asked| Ok(if asked == offset { (address, device) } else { (BASE + asked, GPU) });
        let error = arena(plan).check(plan, locate).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("VERIFICATION_FAILED", 9));
        error.to_string()
    }

    #[test]
    fn every_slot_is_checked_at_both_ends() {
        let whole = test_plan::tiny();
        let plan = &whole.parts()[0];
        let residency = arena(plan).check(plan, |offset| Ok((BASE + offset, GPU))).unwrap();
        assert_eq!(residency.pointers_checked as usize, plan.slots().len());
        for placed in plan.slots() {
            let planned = &placed.planned;
            for offset in [planned.dest.start, planned.dest.end - 1] {
                let text = misplaced(plan, offset, BASE + offset, DeviceKind::Host);
                assert!(text.contains("is in the memory of host, not of cuda:1"), "{text}");
            }
        }
    }

    #[test]
    fn a_slot_on_another_gpu_or_at_another_address_is_named() {
        let whole = test_plan::tiny();
        let plan = &whole.parts()[0];
        let at = plan.slot(Slot::AttnV(1)).unwrap().planned.dest.end - 1;
        let text = misplaced(plan, at, BASE + at, DeviceKind::Cuda(0));
        assert!(text.contains("layers.1.attn_v") && text.contains("of cuda:0"), "{text}");
        let text = misplaced(plan, at, BASE + at + 1, GPU);
        assert!(text.contains("layers.1.attn_v is at 0x7f"), "{text}");
    }

    #[test]
    fn an_allocation_of_another_size_is_refused() {
        let whole = test_plan::tiny();
        let plan = &whole.parts()[0];
        for bytes in [plan.device_bytes() - 256, plan.device_bytes() + 256, 0] {
            let arena = Arena { bytes, ..arena(plan) };
            let error = arena.check(plan, |offset| Ok((BASE + offset, GPU))).unwrap_err();
            assert!(error.to_string().contains(&format!("has {bytes} bytes")), "{error}");
        }
    }

    #[test]
    fn a_slot_outside_the_allocation_is_named_without_a_driver_query() {
        let whole = test_plan::tiny();
        let plan = &whole.parts()[0];
        let last = &plan.slot(Slot::Output).unwrap().planned;
        let short = Arena { bytes: last.dest.end - 1, ..arena(plan) };
        let error = short.check_slot(last, |_| unreachable!()).unwrap_err();
        assert!(error.to_string().contains("output takes bytes"), "{error}");
    }
}
