//! Checks a plan for several devices without using the code that made it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::{DEST_ALIGNMENT, HeadRange, PlacedOp, PlacedPart, PlacedPlan, PlacedSlot, has_heads};
use crate::conversion::Conversion;
use crate::error::Error;
use crate::placement::SplitMode;
use crate::plan::{ALIGNMENT, LoadPlan, PlanOp, PlannedSlot, fault, length};
use crate::slot::{Matrix, Slot};

/// Columns are cut at multiples of this number.
const COLUMN_STEP: u64 = 32;

impl PlacedPlan {
    /// Checks the plan again, so that a bug in its construction cannot corrupt the memory of a device or leave a
    /// weight out. The [whole](Self::whole) plan is checked first; then the parts are compared with it:
    ///
    /// * the transfers to a device are ordered by unit; their destinations are in ascending order inside the
    ///   arena, aligned and without overlap; the arena ends after the last of them;
    /// * every transfer reads whole rows, or whole blocks of each row, inside its tensor, and writes the elements
    ///   that it keeps of them; it has the conversion, the scale, the format and the unit of the whole plan;
    /// * every weight of a device is where the transfer puts exactly its rows and columns, and the weights of a
    ///   transfer cover its destination;
    /// * every element of every weight has exactly the owners that the placement says: in the mode `none` device 0,
    ///   in `layer` one device, in ascending order, in `tensor` one device for each part of a matrix, or as many as
    ///   share a key-value head, and in `replicate` all devices. In `tensor`, norms, RoPE factors and scales are on
    ///   all devices. In `layer`, RoPE factors are on those that have a layer;
    /// * in the mode `tensor`, a device has the same heads and the same part of the feed-forward network in all
    ///   layers, and the key-value heads that its query heads use.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPlan`] with the first rule that is broken.
    pub fn verify(&self) -> Result<(), Error> {
        self.whole.verify()?;
        if self.parts.len() != self.placement.devices() {
            return Err(fault(format!("{} parts for other devices", self.parts.len())));
        }
        let tensors = tensors(&self.whole)?;
        let mut total = 0_u64;
        for (device, part) in self.parts.iter().enumerate() {
            let on_device = |error: Error| match error {
                Error::InvalidPlan { fault } => {
                    Error::InvalidPlan { fault: format!("device {device}: {fault}") }
                }
                other => other,
            };
            part.verify(&self.whole, &tensors).map_err(on_device)?;
            total = total
                .checked_add(part.device_bytes)
                .ok_or(Error::TooLarge { what: "the model in the memory of all devices" })?;
        }
        let owners = self.owners();
        match self.placement.mode() {
            SplitMode::None | SplitMode::Replicate => self.verify_copies(&owners),
            SplitMode::Layer => self.verify_layers(&owners),
            SplitMode::Tensor => self.verify_shares(&owners),
        }?;
        self.verify_heads()
    }

    /// Returns every weight of the model with the devices that hold parts of it.
    fn owners(&self) -> Vec<Owned<'_>> {
        let parts = || self.parts.iter().enumerate();
        let of_slot = |slot| parts().filter_map(move |(i, part)| Some((i, part.slot(slot)?)));
        self.whole
            .slots()
            .iter()
            .map(|whole| Owned { whole, parts: of_slot(whole.slot).collect() })
            .collect()
    }

    fn verify_copies(&self, owners: &[Owned<'_>]) -> Result<(), Error> {
        owners.iter().try_for_each(|owned| owned.is_on(0..self.parts.len()))
    }

    fn verify_layers(&self, owners: &[Owned<'_>]) -> Result<(), Error> {
        let last = self.parts.len().saturating_sub(1);
        let offloaded = self.placement.offloaded_layers();
        let output = if offloaded == Some(0) { 0 } else { last };
        let mut of_layers: Vec<usize> = Vec::new();
        for layer in 0..self.layers() {
            let norm = Slot::AttnNorm(layer);
            let device = self.parts.iter().position(|part| part.slot(norm).is_some());
            let first = offloaded.is_some_and(|n| layer < self.layers().saturating_sub(n));
            let before = of_layers.last().copied();
            match device {
                Some(device)
                    if before.is_none_or(|before| before <= device)
                        && (offloaded.is_none() || first == (device == 0)) =>
                {
                    of_layers.push(device);
                }
                _ => return Err(fault(format!("layer {layer} is on {device:?}"))),
            }
        }
        let with_layers: BTreeSet<usize> = of_layers.iter().copied().collect();
        for owned in owners {
            let slot = match owned.whole.slot {
                Slot::Scale(matrix) | Slot::InputScale(matrix) => matrix.slot(),
                slot => slot,
            };
            match slot.layer() {
                Some(layer) => {
                    let device = of_layers.get(usize::try_from(layer).unwrap_or(usize::MAX));
                    owned.is_on(device.copied())
                }
                None if slot == Slot::TokenEmbedding => owned.is_on([0]),
                None if slot.is_rope_factors() => owned.is_on(with_layers.iter().copied()),
                None => owned.is_on([output]),
            }?;
        }
        Ok(())
    }

    fn verify_shares(&self, owners: &[Owned<'_>]) -> Result<(), Error> {
        for owned in owners {
            let slot = owned.whole.slot;
            match slot.matrix() {
                None => owned.is_on(0..self.parts.len())?,
                Some(matrix) => {
                    let axis = match matrix {
                        Matrix::AttnOutput(_) | Matrix::FfnDown(_) => Axis::Columns,
                        _ => Axis::Rows,
                    };
                    let devices = self.parts.len();
                    let repeats = match matrix {
                        Matrix::AttnK(_) | Matrix::AttnV(_) => {
                            usize::try_from(self.attention.kv_heads)
                                .ok()
                                .and_then(|kv_heads| devices.checked_div(kv_heads))
                                .map_or(1, |repeats| repeats.max(1))
                        }
                        _ => 1,
                    };
                    owned.is_divided(axis, devices, repeats)?;
                }
            }
        }
        self.parts.iter().try_for_each(PlacedPart::verify_shares)
    }

    /// Checks the heads of every part against its rows and columns.
    fn verify_heads(&self) -> Result<(), Error> {
        let shape = &self.attention;
        let group = shape.q_heads.checked_div(shape.kv_heads).unwrap_or(0);
        let elements = |first: u32, count: u32| {
            let dim = u64::from(shape.head_dim);
            let first = u64::from(first).checked_mul(dim)?;
            Some(first..u64::from(count).checked_mul(dim)?.checked_add(first)?)
        };
        let slots = self.parts.iter().flat_map(|part| {
            let heads = part.slots.iter().find_map(|placed| placed.heads);
            part.slots.iter().map(move |placed| (placed, heads))
        });
        for (placed, of_part) in slots {
            let slot = placed.planned.slot;
            let wrong = || fault(format!("{slot} has the heads {:?}", placed.heads));
            if !has_heads(slot) {
                if placed.heads.is_some() {
                    return Err(wrong());
                }
                continue;
            }
            // All layers of a device have the same heads.
            let heads = placed.heads.filter(|_| placed.heads == of_part).ok_or_else(wrong)?;
            let HeadRange { first_head, heads: count, first_kv_head, kv_heads } = heads;
            let found = match slot {
                Slot::AttnQ(_) => (&placed.rows, elements(first_head, count)),
                Slot::AttnOutput(_) => (&placed.cols, elements(first_head, count)),
                _ => (&placed.rows, elements(first_kv_head, kv_heads)),
            };
            // The first and the last query head use the first and the last key-value head.
            let last_head = first_head.checked_add(count).and_then(|end| end.checked_sub(1));
            let last_kv = first_kv_head.checked_add(kv_heads).and_then(|end| end.checked_sub(1));
            if found.1.as_ref() != Some(found.0)
                || first_head.checked_div(group) != Some(first_kv_head)
                || last_head.and_then(|head| head.checked_div(group)) != last_kv
            {
                return Err(wrong());
            }
        }
        Ok(())
    }
}

/// The axis that a matrix is divided along.
#[derive(Clone, Copy)]
enum Axis {
    Rows,
    Columns,
}

/// A weight of the whole plan, and its parts with their devices, in the order of these.
struct Owned<'a> {
    whole: &'a PlannedSlot,
    parts: Vec<(usize, &'a PlacedSlot)>,
}

impl Owned<'_> {
    fn fault(&self, rule: &str) -> Error {
        let devices: Vec<usize> = self.parts.iter().map(|(device, _)| *device).collect();
        fault(format!("{} is on the devices {devices:?}, but {rule}", self.whole.slot))
    }

    /// Checks that exactly these devices hold the whole weight.
    fn is_on(&self, devices: impl IntoIterator<Item = usize>) -> Result<(), Error> {
        if !self.parts.iter().map(|(device, _)| *device).eq(devices) {
            return Err(self.fault("the placement names others"));
        }
        let (rows, cols) = extent(self.whole)?;
        let is_whole = |part: &PlacedSlot| part.rows == (0..rows) && part.cols == (0..cols);
        if self.parts.iter().all(|(_, part)| is_whole(part)) {
            return Ok(());
        }
        Err(self.fault("one has only a part of it"))
    }

    /// Checks that all devices hold a part, that groups of `repeats` devices hold the same part, and that the parts
    /// of the groups follow each other and make up the whole.
    fn is_divided(&self, axis: Axis, devices: usize, repeats: usize) -> Result<(), Error> {
        if !self.parts.iter().map(|(device, _)| *device).eq(0..devices) {
            return Err(self.fault("every device has a part"));
        }
        let (rows, cols) = extent(self.whole)?;
        let (cut_to, other_to) = match axis {
            Axis::Rows => (rows, cols),
            Axis::Columns => (cols, rows),
        };
        let mut end = 0;
        for group in self.parts.chunks(repeats) {
            let mut cut: Option<Range<u64>> = None;
            for (_, part) in group {
                let (along, other) = match axis {
                    Axis::Rows => (&part.rows, &part.cols),
                    Axis::Columns => (&part.cols, &part.rows),
                };
                if *other != (0..other_to)
                    || along.start != end
                    || along.is_empty()
                    || cut.as_ref().is_some_and(|cut| cut != along)
                {
                    return Err(self.fault("the parts do not make up the whole"));
                }
                cut = Some(along.clone());
            }
            end = cut.map_or(end, |cut| cut.end);
        }
        if end == cut_to { Ok(()) } else { Err(self.fault("the parts end before the whole")) }
    }
}

/// Returns rows and columns of a weight. A vector has one row.
fn extent(planned: &PlannedSlot) -> Result<(u64, u64), Error> {
    match *planned.shape {
        [cols] => Ok((1, cols)),
        [rows, cols] => Ok((rows, cols)),
        _ => Err(fault(format!("{} has the shape {:?}", planned.slot, planned.shape))),
    }
}

/// A tensor of the file, as the whole plan describes it.
struct WholeTensor<'a> {
    op: &'a PlanOp,
    /// One of its weights.
    planned: &'a PlannedSlot,
    cols: u64,
}

fn tensors(whole: &LoadPlan) -> Result<HashMap<&str, WholeTensor<'_>>, Error> {
    let mut tensors = HashMap::new();
    for planned in whole.slots() {
        let op = whole.ops().get(planned.op);
        let op = op.ok_or_else(|| fault(format!("{} has no transfer", planned.slot)))?;
        let cols = extent(planned)?.1;
        tensors.insert(&*planned.tensor, WholeTensor { op, planned, cols });
    }
    Ok(tensors)
}

impl PlacedPart {
    fn verify(
        &self,
        whole: &LoadPlan,
        tensors: &HashMap<&str, WholeTensor<'_>>,
    ) -> Result<(), Error> {
        self.verify_arena(whole.units())?;
        for op in &self.ops {
            let tensor = tensors.get(&*op.tensor);
            tensor.and_then(|tensor| op.follows(tensor)).ok_or_else(|| {
                fault(format!("the transfer of {} does not match the tensor", op.tensor))
            })?;
        }
        if !self.slots.iter().map(|placed| placed.planned.slot).is_sorted_by(|a, b| a < b) {
            return Err(fault("the weights are not in order"));
        }
        for placed in &self.slots {
            self.is_filled(placed, whole).ok_or_else(|| {
                fault(format!("{} is not filled by its transfer", placed.planned.slot))
            })?;
        }
        self.verify_tiling(whole)
    }

    fn verify_arena(&self, units: u32) -> Result<(), Error> {
        let (mut end, mut unit, mut before) = (0, 0, None);
        for op in &self.ops {
            let PlacedOp { tensor, dest, .. } = op;
            let alignment = if before == Some(tensor) { DEST_ALIGNMENT } else { ALIGNMENT };
            if dest.start < end || !dest.start.is_multiple_of(alignment) || dest.is_empty() {
                return Err(fault(format!("{tensor} goes to {dest:?} after byte {end}")));
            }
            if op.unit < unit || op.unit >= units {
                return Err(fault(format!("{tensor} is in unit {} after {unit}", op.unit)));
            }
            (end, unit, before) = (dest.end, op.unit, Some(tensor));
        }
        if end.checked_next_multiple_of(ALIGNMENT) == Some(self.device_bytes) {
            return Ok(());
        }
        let bytes = self.device_bytes;
        Err(fault(format!("the arena has {bytes} bytes, but {end} bytes are used")))
    }

    /// Returns `None` if the transfer of this weight does not put exactly its rows and columns there.
    fn is_filled(&self, placed: &PlacedSlot, whole: &LoadPlan) -> Option<()> {
        let PlacedSlot { planned, rows, cols, .. } = placed;
        let op = self.ops.get(planned.op)?;
        let of_whole = whole.slot(planned.slot)?;
        let (whole_rows, whole_cols) = extent(of_whole).ok()?;
        let is_vector = of_whole.shape.len() == 1;
        let (height, width) = (length(rows)?, length(cols)?);
        let shape = if is_vector { vec![width] } else { vec![height, width] };
        // The first row of the whole weight in its tensor.
        let whole_op = whole.ops().get(of_whole.op)?;
        let before = of_whole.dest.start.checked_sub(whole_op.dest.start)?;
        let first_row = before.checked_div(of_whole.row_bytes)?;
        let skipped_rows = first_row.checked_add(rows.start)?.checked_sub(op.rows.start)?;
        let start = skipped_rows.checked_mul(op.dest_row_bytes)?.checked_add(op.dest.start)?;
        let end = height.checked_mul(op.dest_row_bytes)?.checked_add(start)?;
        let block = op.row_range.start.checked_div(planned.source_type.block_bytes())?;
        let first_col = block.checked_mul(planned.source_type.block_len())?.checked_add(op.skip)?;
        let matches = rows.end <= whole_rows
            && cols.end <= whole_cols
            && shape == planned.shape
            && planned.dest == (start..end)
            && end <= op.dest.end
            && (first_col, op.keep) == (cols.start, width)
            && planned.row_bytes == op.dest_row_bytes
            && planned.tensor == op.tensor
            && planned.tensor == of_whole.tensor
            && (planned.source_type, planned.format) == (of_whole.source_type, of_whole.format);
        matches.then_some(())
    }

    /// Checks that the weights of each transfer cover its destination. Weights that share their place in the whole
    /// plan, such as a tied output, share it here.
    fn verify_tiling(&self, whole: &LoadPlan) -> Result<(), Error> {
        let mut parts: Vec<&PlannedSlot> =
            self.slots.iter().map(|placed| &placed.planned).collect();
        parts.sort_by_key(|planned| (planned.op, planned.dest.start));
        let whole_dest = |slot| whole.slot(slot).map(|planned| &planned.dest);
        let mut parts = parts.into_iter().peekable();
        for (position, op) in self.ops.iter().enumerate() {
            let mut end = op.dest.start;
            while let Some(part) =
                parts.next_if(|part| part.op == position && part.dest.start == end)
            {
                end = part.dest.end;
                let shares = |next: &&PlannedSlot| {
                    (next.op, &next.dest) == (part.op, &part.dest)
                        && whole_dest(next.slot) == whole_dest(part.slot)
                };
                while parts.next_if(shares).is_some() {}
            }
            if end != op.dest.end {
                return Err(fault(format!("the weights of {} do not fill it exactly", op.tensor)));
            }
        }
        match parts.next() {
            None => Ok(()),
            Some(part) => Err(fault(format!("{} is outside its transfer", part.slot))),
        }
    }

    /// Checks that matrices which are multiplied with each other are divided in the same way.
    fn verify_shares(&self) -> Result<(), Error> {
        let rows = |slot| self.slot(slot).map(|placed| &placed.rows);
        let cols = |slot| self.slot(slot).map(|placed| &placed.cols);
        let mut is_same = rows(Slot::TokenEmbedding) == rows(Slot::Output);
        for layer in 0..self.layers {
            let ffn = rows(Slot::FfnGate(layer));
            is_same = is_same
                && ffn == rows(Slot::FfnUp(layer))
                && ffn == cols(Slot::FfnDown(layer))
                && ffn == rows(Slot::FfnGate(0))
                && rows(Slot::AttnQ(layer)) == cols(Slot::AttnOutput(layer))
                && rows(Slot::AttnQ(layer)) == rows(Slot::AttnQ(0))
                && rows(Slot::AttnK(layer)) == rows(Slot::AttnV(layer))
                && rows(Slot::AttnK(layer)) == rows(Slot::AttnK(0));
        }
        if is_same { Ok(()) } else { Err(fault("matrices are divided in different ways")) }
    }
}

impl PlacedOp {
    /// Returns `None` if this is not a transfer of rows, or of whole blocks of rows, of this tensor.
    fn follows(&self, tensor: &WholeTensor<'_>) -> Option<()> {
        let WholeTensor { op, planned, cols } = *tensor;
        let ggml_type = planned.source_type;
        let (block_len, block_bytes) = (ggml_type.block_len(), ggml_type.block_bytes());
        let offset =
            |row: u64| row.checked_mul(self.row_stride)?.checked_add(op.source.range.start);
        let blocks = length(&self.row_range)?.checked_div(block_bytes)?;
        let end = self.skip.checked_add(self.keep)?;
        // The first and the last block that are read have an element of the part.
        let is_needed = self.keep > 0
            && self.skip < block_len
            && end.div_ceil(block_len) == blocks
            && self.row_range.start.is_multiple_of(block_bytes)
            && self.row_range.end.is_multiple_of(block_bytes);
        // Without conversion, blocks stay whole.
        let is_kept = match self.conversion {
            Conversion::Copy => self.skip == 0 && end.is_multiple_of(block_len),
            Conversion::ToF16(_) => true,
        };
        let first_col = self.row_range.start.checked_div(block_bytes)?.checked_mul(block_len)?;
        let is_stepped = first_col.checked_add(self.skip)?.is_multiple_of(COLUMN_STEP);
        let dest_bytes = length(&self.rows)?.checked_mul(self.dest_row_bytes)?;
        let matches = is_needed
            && is_kept
            && is_stepped
            && ggml_type == self.source_type
            && ggml_type.bytes_for(cols) == Some(self.row_stride)
            && self.row_range.end <= self.row_stride
            && self.source.shard == op.source.shard
            && self.source.range == (offset(self.rows.start)?..offset(self.rows.end)?)
            && self.source.range.end <= op.source.range.end
            && self.format.ggml_type().bytes_for(self.keep) == Some(self.dest_row_bytes)
            && length(&self.dest) == Some(dest_bytes)
            && (self.conversion, &self.scale) == (op.conversion, &op.scale)
            && (self.format, self.unit) == (op.format, op.unit);
        matches.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::TensorMap;
    use crate::config::Phi3Config;
    use crate::placement::Placement;
    use crate::plan::{SlotFormat, Storage};
    use crate::preset::{Blueprint, Layout, Preset, TypeMix};
    use gguf_format::{GgmlType, Gguf, Limits};

    fn plan(mix: TypeMix, storage: Storage, placement: &Placement) -> PlacedPlan {
        let blueprint = Blueprint::new(Preset::Tiny, Layout::Fused, mix);
        let layout = blueprint.writer().layout().unwrap();
        let prefix = [layout.header(), &[0; 8]].concat();
        let gguf = Gguf::parse_header(&prefix, layout.file_len(), &Limits::default()).unwrap();
        let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).unwrap();
        let tensors = TensorMap::bind(&config, gguf.tensors()).unwrap();
        PlacedPlan::new(&config, &tensors, storage, placement).unwrap()
    }

    fn tiny(mode: SplitMode, devices: usize) -> PlacedPlan {
        plan(TypeMix::Q8_0, Storage::F16, &Placement::new(mode, devices).unwrap())
    }

    /// Returns the error of the plan for two devices that `spoil` has changed.
    #[track_caller]
    fn broken(mode: SplitMode, spoil: impl FnOnce(&mut PlacedPlan)) -> String {
        let mut plan = tiny(mode, 2);
        plan.verify().unwrap();
        spoil(&mut plan);
        plan.verify().unwrap_err().to_string()
    }

    fn position(part: &PlacedPart, slot: Slot) -> usize {
        part.slots.iter().position(|placed| placed.planned.slot == slot).unwrap()
    }

    /// Returns the error of the owners alone, in the mode `tensor`, after a change of parts that other checks would
    /// find, too.
    #[track_caller]
    fn unowned(devices: usize, spoil: impl FnOnce(&mut PlacedPlan)) -> String {
        let mut plan = tiny(SplitMode::Tensor, devices);
        plan.verify_shares(&plan.owners()).unwrap();
        spoil(&mut plan);
        plan.verify_shares(&plan.owners()).unwrap_err().to_string()
    }

    fn placed(part: &mut PlacedPart, slot: Slot) -> &mut PlacedSlot {
        let position = position(part, slot);
        &mut part.slots[position]
    }

    /// Returns the error after a change of the slot and of its transfer on device 1, in the mode `tensor`.
    #[track_caller]
    fn spoilt(slot: Slot, spoil: impl FnOnce(&mut PlacedSlot, &mut PlacedOp)) -> String {
        broken(SplitMode::Tensor, |plan| {
            let part = &mut plan.parts[1];
            let placed = position(part, slot);
            let op = part.slots[placed].planned.op;
            spoil(&mut part.slots[placed], &mut part.ops[op]);
        })
    }

    #[test]
    fn destinations_out_of_place_are_found() {
        let arena = |spoil: fn(&mut PlacedPart)| {
            broken(SplitMode::Tensor, |plan| spoil(&mut plan.parts[1]))
        };
        for spoil in [
            |part: &mut PlacedPart| part.ops[3].dest.start += 2,
            |part: &mut PlacedPart| part.ops[3].dest.start -= 256,
            |part: &mut PlacedPart| part.ops[3].dest.end = 0,
            |part: &mut PlacedPart| part.ops.swap(2, 3),
        ] {
            assert!(arena(spoil).contains("device 1: "));
            assert!(arena(spoil).contains(" goes to "));
        }
        assert!(arena(|part| part.device_bytes += 256).contains("the arena has"));
        assert!(arena(|part| part.ops[0].unit = 3).contains("after 3"));
        assert!(arena(|part| part.ops.last_mut().unwrap().unit = 5).contains("is in unit 5"));
    }

    #[test]
    fn transfers_of_other_bytes_are_found() {
        let wrong = "does not match the tensor";
        let down = |spoil: fn(&mut PlacedOp)| {
            let error = spoilt(Slot::FfnDown(1), |_, op| spoil(op));
            assert!(error.contains(wrong), "{error}");
        };
        down(|op| op.row_range.start -= 34);
        down(|op| op.row_range = op.row_range.start + 1..op.row_range.end + 1);
        down(|op| op.row_range = op.row_range.start + 34..op.row_range.end + 34);
        down(|op| op.row_stride += 34);
        down(|op| op.skip += 32);
        down(|op| op.skip += 1);
        down(|op| op.keep -= 32);
        down(|op| op.dest_row_bytes += 2);
        down(|op| op.rows.end += 1);
        down(|op| op.source.range.start += 34);
        down(|op| op.source.shard = 1);
        down(|op| op.source_type = GgmlType::Q4_0);
        down(|op| op.conversion = Conversion::Copy);
        down(|op| op.format = SlotFormat::F32);
        down(|op| op.tensor = "other".into());
        let last = spoilt(Slot::Output, |_, op| {
            let rows = length(&op.rows).unwrap();
            op.rows = op.rows.start + 1..op.rows.start + 1 + rows;
            let bytes = length(&op.source.range).unwrap();
            let start = op.source.range.start + op.row_stride;
            op.source.range = start..start + bytes;
        });
        assert!(last.contains(wrong), "the last row is outside the tensor: {last}");
    }

    /// Returns the error after a transfer has other columns of the blocks that it reads. Its other fields are changed
    /// to match them.
    fn moved_columns(mix: TypeMix, storage: Storage, skip: u64, keep: u64) -> String {
        let placement = Placement::single();
        let mut plan = plan(mix, storage, &placement);
        plan.verify().unwrap();
        let part = &mut plan.parts[0];
        let placed = position(part, Slot::FfnDown(0));
        let op = &mut part.ops[part.slots[placed].planned.op];
        op.skip = skip;
        op.keep = keep;
        op.dest_row_bytes = op.format.ggml_type().bytes_for(keep).unwrap();
        op.dest.end = op.dest.start + length(&op.rows).unwrap() * op.dest_row_bytes;
        plan.verify().unwrap_err().to_string()
    }

    #[test]
    fn copies_of_broken_blocks_are_found() {
        let wrong = "does not match the tensor";
        // Rows of 3 blocks of 256 columns.
        assert!(moved_columns(TypeMix::Q4_K_M, Storage::Native, 64, 512).contains(wrong));
    }

    #[test]
    fn columns_cut_beside_a_multiple_of_32_are_found() {
        let wrong = "does not match the tensor";
        assert!(moved_columns(TypeMix::Q8_0, Storage::F16, 8, 760).contains(wrong));
        // The transfer would be possible, but it is not the one of the weight.
        let moved = moved_columns(TypeMix::Q4_K_M, Storage::F16, 64, 704);
        assert!(moved.contains("layers.0.ffn_down is not filled by its transfer"), "{moved}");
    }

    #[test]
    fn weights_that_are_not_where_they_should_be_are_found() {
        for slot in [Slot::AttnK(1), Slot::AttnOutput(0), Slot::FfnDown(2), Slot::TokenEmbedding] {
            for spoil in [
                |placed: &mut PlacedSlot| placed.rows.start += 1,
                |placed: &mut PlacedSlot| placed.rows.end += 1,
                |placed: &mut PlacedSlot| placed.cols.start += 32,
                |placed: &mut PlacedSlot| placed.cols.end += 32,
                |placed: &mut PlacedSlot| placed.cols.end -= 32,
                |placed: &mut PlacedSlot| placed.planned.dest.start += 2,
                |placed: &mut PlacedSlot| placed.planned.row_bytes += 2,
                |placed: &mut PlacedSlot| placed.planned.shape[0] -= 1,
                |placed: &mut PlacedSlot| placed.planned.op += 1,
                |placed: &mut PlacedSlot| placed.planned.tensor = "other".into(),
                |placed: &mut PlacedSlot| placed.planned.format = SlotFormat::F32,
                |placed: &mut PlacedSlot| placed.planned.source_type = GgmlType::F16,
            ] {
                let error = spoilt(slot, |placed, _| spoil(placed));
                assert!(error.contains("is not filled by its transfer"), "{slot}: {error}");
            }
        }
        let swapped = broken(SplitMode::Tensor, |plan| plan.parts[0].slots.swap(3, 4));
        assert!(swapped.contains("not in order"));
    }

    #[test]
    fn destinations_without_weights_are_found() {
        for slot in [Slot::AttnV(1), Slot::OutputNorm, Slot::RopeFactorsLong] {
            let error = broken(SplitMode::Replicate, |plan| {
                let placed = position(&plan.parts[1], slot);
                plan.parts[1].slots.remove(placed);
            });
            assert!(error.contains("do not fill it exactly"), "{error}");
        }
    }

    #[test]
    fn other_owners_than_those_of_the_placement_are_found() {
        let empty = || PlacedPart { layers: 3, ops: vec![], slots: vec![], device_bytes: 0 };
        let mode = |of: &mut PlacedPlan, mode| of.placement = Placement::new(mode, 2).unwrap();
        use SplitMode::{Layer, Replicate, Tensor};

        assert!(broken(Replicate, |plan| plan.parts[1] = empty()).contains("names others"));
        assert!(broken(Replicate, |plan| mode(plan, Layer)).contains("on the devices [0, 1]"));
        assert!(broken(Replicate, |plan| mode(plan, Tensor)).contains("do not make up the whole"));
        assert!(broken(Replicate, |plan| plan.parts.truncate(1)).contains("other devices"));

        assert!(broken(Layer, |plan| plan.parts[1] = empty()).contains("layer 2 is on None"));
        assert!(broken(Layer, |plan| plan.parts.swap(0, 1)).contains("layer 2 is on Some(0)"));
        assert!(broken(Layer, |plan| mode(plan, Replicate)).contains("names others"));
        assert!(
            broken(Layer, |plan| {
                let copied = plan.parts[0].clone();
                plan.parts[1] = copied;
            })
            .contains("layer 2")
        );
        let offloaded = broken(Layer, |plan| {
            plan.placement = Placement::last_layers(2, 2).unwrap();
        });
        assert!(offloaded.contains("layer 1 is on Some(0)"), "{offloaded}");

        assert!(broken(Tensor, |plan| plan.parts.swap(0, 1)).contains("do not make up the whole"));
        assert!(broken(Tensor, |plan| plan.parts[1] = empty()).contains("every device has a part"));
        assert!(broken(Tensor, |plan| mode(plan, Replicate)).contains("only a part"));
        assert!(
            broken(Tensor, |plan| {
                let copied = plan.parts[0].clone();
                plan.parts[1] = copied;
            })
            .contains("do not make up the whole")
        );
    }

    #[test]
    fn repeated_heads_in_another_order_are_found() {
        // Two key-value heads, each on two devices.
        let mut plan = tiny(SplitMode::Tensor, 4);
        plan.verify().unwrap();
        plan.parts.swap(1, 2);
        assert!(plan.verify().is_err());
    }

    #[test]
    fn heads_that_contradict_the_rows_are_found() {
        for slot in [Slot::AttnQ(0), Slot::AttnK(1), Slot::AttnOutput(2)] {
            for spoil in [
                |heads: &mut HeadRange| heads.first_head += 1,
                |heads: &mut HeadRange| heads.heads -= 1,
                |heads: &mut HeadRange| heads.first_kv_head -= 1,
                |heads: &mut HeadRange| heads.kv_heads += 1,
            ] {
                let error = spoilt(slot, |placed, _| spoil(placed.heads.as_mut().unwrap()));
                assert!(error.contains("has the heads"), "{error}");
            }
            assert!(spoilt(slot, |placed, _| placed.heads = None).contains("has the heads None"));
        }
        let norm = broken(SplitMode::Replicate, |plan| {
            let heads = plan.parts[0].slots.iter().find_map(|placed| placed.heads);
            let norm = position(&plan.parts[0], Slot::OutputNorm);
            plan.parts[0].slots[norm].heads = heads;
        });
        assert!(norm.contains("output_norm has the heads"), "{norm}");
    }

    #[test]
    fn elements_without_owners_or_with_too_many_are_found() {
        for slot in [Slot::Output, Slot::AttnQ(1), Slot::AttnV(0), Slot::FfnUp(2)] {
            let short = unowned(2, |plan| placed(&mut plan.parts[1], slot).rows.end -= 1);
            assert!(short.contains("the parts end before the whole"), "{short}");
            for spoil in [
                |rows: &mut Range<u64>| rows.start += 1,
                |rows: &mut Range<u64>| rows.start -= 1,
                |rows: &mut Range<u64>| rows.end = rows.start,
            ] {
                let gap = unowned(2, |plan| spoil(&mut placed(&mut plan.parts[1], slot).rows));
                assert!(gap.contains("do not make up the whole"), "{gap}");
            }
            let narrow = unowned(2, |plan| placed(&mut plan.parts[0], slot).cols.end -= 32);
            assert!(narrow.contains("do not make up the whole"), "{narrow}");
        }
        let short = unowned(2, |plan| placed(&mut plan.parts[1], Slot::FfnDown(0)).cols.end -= 1);
        assert!(short.contains("the parts end before the whole"), "{short}");
    }

    #[test]
    fn repeated_heads_of_different_size_are_found() {
        // Devices 0 and 1 share the first key-value head.
        let error = unowned(4, |plan| placed(&mut plan.parts[0], Slot::AttnK(0)).rows.end -= 1);
        assert!(error.contains("do not make up the whole"), "{error}");
    }

    /// The heads match the rows, but the query heads 2 and 3 do not use exactly the key-value heads of the device.
    #[test]
    fn query_heads_without_their_key_value_heads_are_found() {
        for (first_kv_head, kv_heads) in [(0, 1), (0, 2)] {
            let mut plan = tiny(SplitMode::Tensor, 2);
            plan.verify_heads().unwrap();
            for of_part in &mut plan.parts[1].slots {
                let Some(heads) = &mut of_part.heads else { continue };
                (heads.first_kv_head, heads.kv_heads) = (first_kv_head, kv_heads);
                if matches!(of_part.planned.slot, Slot::AttnK(_) | Slot::AttnV(_)) {
                    of_part.rows = 0..64 * u64::from(kv_heads);
                }
            }
            assert!(plan.verify_heads().unwrap_err().to_string().contains("has the heads"));
        }
    }

    /// The parts of each matrix make up the whole, but a device has rows of one that do not match the other.
    #[test]
    fn matrices_that_are_divided_in_different_ways_are_found() {
        let moved = |slots: &[Slot]| {
            unowned(2, |plan| {
                let (first, second) = plan.parts.split_at_mut(1);
                for slot in slots {
                    let (one, other) =
                        (placed(&mut first[0], *slot), placed(&mut second[0], *slot));
                    if matches!(slot, Slot::FfnDown(_) | Slot::AttnOutput(_)) {
                        (one.cols.end, other.cols.start) =
                            (one.cols.end + 32, other.cols.start + 32);
                    } else {
                        (one.rows.end, other.rows.start) =
                            (one.rows.end + 32, other.rows.start + 32);
                    }
                }
            })
        };
        for slots in [
            vec![Slot::FfnGate(0)],
            vec![Slot::FfnUp(1)],
            vec![Slot::FfnDown(2)],
            vec![Slot::AttnQ(0)],
            vec![Slot::AttnK(1)],
            vec![Slot::AttnV(2)],
            vec![Slot::AttnOutput(0)],
            vec![Slot::Output],
            // Layer 1 differs from layer 0.
            vec![Slot::FfnGate(1), Slot::FfnUp(1), Slot::FfnDown(1)],
            vec![Slot::AttnQ(1), Slot::AttnOutput(1)],
            vec![Slot::AttnK(1), Slot::AttnV(1)],
        ] {
            assert!(moved(&slots).contains("divided in different ways"), "{slots:?}");
        }
    }
}
