//! Proof that the weights are where they are said to be.

use crate::error::Error;
use cuda_sys::DeviceBuffer;
use model_phi3::{LoadPlan, PlannedSlot};

/// What a residency check looked at. It exists only where everything was in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Residency {
    /// Slots whose first and last byte the driver was asked about.
    pub pointers_checked: u32,
    /// Bytes of the one allocation, equal to the plan's.
    pub vram_bytes: u64,
}

/// Asks the driver about the first and the last byte of every slot, and holds the allocation against
/// the plan.
pub(crate) fn check(plan: &LoadPlan, buffer: &DeviceBuffer) -> Result<Residency, Error> {
    if buffer.len() != plan.device_bytes() {
        return Err(Error::Verification {
            what: format!(
                "the allocation has {} bytes, the plan {}",
                buffer.len(),
                plan.device_bytes()
            ),
        });
    }
    let mut pointers_checked = 0;
    for slot in plan.slots() {
        check_slot(slot, buffer)?;
        pointers_checked += 1;
    }
    Ok(Residency { pointers_checked, vram_bytes: buffer.len() })
}

fn check_slot(slot: &PlannedSlot, buffer: &DeviceBuffer) -> Result<(), Error> {
    let range = &slot.dest;
    for offset in [range.start, range.end - 1] {
        let location = buffer.locate(offset)?;
        if location.device != buffer.device() {
            return Err(Error::Verification {
                what: format!(
                    "{} at {:#x} is memory of {}, not of {}",
                    slot.slot,
                    location.address,
                    location.device,
                    buffer.device()
                ),
            });
        }
        let expected = buffer.address() + offset;
        if location.address != expected {
            return Err(Error::Verification {
                what: format!(
                    "{} is at {:#x}, expected at {expected:#x}",
                    slot.slot, location.address
                ),
            });
        }
    }
    Ok(())
}
