//! Puts the parts of a weight together.

use crate::error::Error;
use crate::host_memory;
use crate::part::LoadedPart;
use model_phi3::{PlacedPlan, PlacedSlot, PlannedSlot, Slot};
use std::ops::Range;

/// Copies a whole weight from its devices; `None` if the model has no such slot. Fails if two devices have different
/// bytes for the same place.
pub(crate) fn read_whole(
    plan: &PlacedPlan,
    parts: &[LoadedPart],
    slot: Slot,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(planned) = plan.whole().slot(slot) else { return Ok(None) };
    let bytes = planned.dest.end - planned.dest.start;
    let mut whole = Whole { planned, bytes: Vec::new(), read: Vec::new() };
    for part in parts {
        let Some(placed) = part.plan().slot(slot) else { continue };
        let Some(bytes_of_part) = part.read_slot(slot)? else { continue };
        if whole.read.is_empty() && bytes_of_part.len() as u64 == bytes {
            whole.bytes = bytes_of_part;
        } else {
            if whole.bytes.is_empty() {
                whole.bytes = host_memory::zeroed(bytes, &format!("putting {slot} together"))?;
            }
            whole.compare(part, placed, &bytes_of_part)?;
            whole.put(placed, &bytes_of_part);
        }
        whole.read.push((part, placed));
    }
    Ok(Some(whole.bytes))
}

/// A weight of which some parts have been read.
struct Whole<'a> {
    planned: &'a PlannedSlot,
    bytes: Vec<u8>,
    read: Vec<(&'a LoadedPart, &'a PlacedSlot)>,
}

impl Whole<'_> {
    /// Compares a part with the earlier parts that have some of the same rows and columns.
    fn compare(&self, part: &LoadedPart, placed: &PlacedSlot, bytes: &[u8]) -> Result<(), Error> {
        for (earlier, of_earlier) in &self.read {
            let rows = common(&placed.rows, &of_earlier.rows);
            let cols = common(&placed.cols, &of_earlier.cols);
            for row in rows {
                let range = self.range(row, &cols);
                if bytes.get(self.range_of(placed, row, &cols)) == self.bytes.get(range.clone()) {
                    continue;
                }
                return Err(Error::Verification {
                    what: format!(
                        "{} on {} differs from {}: bytes {range:?} of {}",
                        self.planned.slot,
                        part.name(),
                        earlier.name(),
                        self.bytes.len()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Copies a part to its place.
    fn put(&mut self, placed: &PlacedSlot, bytes: &[u8]) {
        for row in placed.rows.clone() {
            let (to, from) =
                (self.range(row, &placed.cols), self.range_of(placed, row, &placed.cols));
            if let (Some(to), Some(from)) = (self.bytes.get_mut(to), bytes.get(from)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// Returns the range of these columns of a row, in bytes of the whole weight.
    fn range(&self, row: u64, cols: &Range<u64>) -> Range<usize> {
        let start = row * self.planned.row_bytes;
        index_of(start + self.offset(cols.start))..index_of(start + self.offset(cols.end))
    }

    /// Returns the same range, in bytes of a part.
    fn range_of(&self, placed: &PlacedSlot, row: u64, cols: &Range<u64>) -> Range<usize> {
        let start = (row - placed.rows.start) * placed.planned.row_bytes;
        let offset = |col| index_of(start + self.offset(col) - self.offset(placed.cols.start));
        offset(cols.start)..offset(cols.end)
    }

    /// Returns the number of bytes of a row before a column, which is the first one of a block.
    fn offset(&self, col: u64) -> u64 {
        let ggml_type = self.planned.format.ggml_type();
        col / ggml_type.block_len() * ggml_type.block_bytes()
    }
}

/// Returns the common part of two ranges; an empty range if there is none.
fn common(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    let start = one.start.max(other.start);
    start..one.end.min(other.end).max(start)
}

/// Converts a position in a weight to an index. It always fits, because the weight is in memory.
fn index_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, LoadOptions, LoadedModel, Loader, Unobserved};
    use model_phi3::{Placement, SplitMode};

    fn load(name: &str, mode: SplitMode, devices: usize) -> LoadedModel {
        let path = format!("{}/../../testdata/models/{name}", env!("CARGO_MANIFEST_DIR"));
        let options = LoadOptions::new().devices(vec![DeviceChoice::Host; devices]);
        let options = options.placement(Placement::new(mode, devices).unwrap());
        Loader::new(options).load(path, &mut Unobserved).unwrap()
    }

    fn flip(model: &mut LoadedModel, part: usize, slot: Slot, at: u64) {
        let place = model.parts[part].plan().slot(slot).unwrap().planned.dest.start + at;
        let mut byte = [0];
        model.parts[part].buffer.read(place, &mut byte).unwrap();
        model.parts[part].buffer.write(place, &[byte[0] ^ 1]).unwrap();
    }

    #[test]
    fn bytes_that_differ_on_two_devices_are_found_and_both_are_named() {
        for (mode, slot, at) in [
            (SplitMode::Replicate, Slot::FfnDown(0), 40),
            (SplitMode::Replicate, Slot::Output, 0),
            (SplitMode::Tensor, Slot::FfnNorm(0), 3),
        ] {
            let mut model = load("fused-k-quants.gguf", mode, 2);
            let bytes = model.read_slot(slot).unwrap();
            let fingerprint = model.fingerprint().unwrap();
            flip(&mut model, 1, slot, at);
            let error = model.read_slot(slot).unwrap_err();
            assert_eq!((error.code(), error.exit_code()), ("VERIFICATION_FAILED", 9));
            let text = error.to_string();
            let start =
                format!("verification failed: {slot} on host (part 1) differs from host (part 0)");
            assert!(text.starts_with(&start), "{text}");
            let error = model.verify_fingerprint(&fingerprint).unwrap_err();
            assert!(error.to_string().contains(" on host (part 1) differs"), "{error}");
            flip(&mut model, 1, slot, at);
            assert_eq!(model.read_slot(slot).unwrap(), bytes);
        }
    }

    #[test]
    fn a_row_that_one_device_has_is_taken_from_it() {
        let mut model = load("fused-k-quants.gguf", SplitMode::Tensor, 2);
        let slot = Slot::AttnOutput(0);
        let mut expected = model.read_slot(slot).unwrap().unwrap();
        let view = model.parts[1].slot(slot).unwrap();
        let row_bytes = |cols: u64| cols * 2;
        flip(&mut model, 1, slot, row_bytes(view.shape[1]) * 3 + 2);
        let at = row_bytes(view.whole_shape[1]) * 3 + row_bytes(view.cols.start) + 2;
        expected[at as usize] ^= 1;
        assert!(model.read_slot(slot).unwrap().unwrap() == expected);
    }

    #[test]
    fn common_rows_are_those_of_both_ranges() {
        assert_eq!(common(&(2..7), &(4..9)), 4..7);
        assert!(common(&(2..4), &(4..9)).is_empty());
        assert!(common(&(8..9), &(1..3)).is_empty());
    }
}
