//! Checks a plan without using the code that made it.

use gguf_format::GgmlType;

use super::{ALIGNMENT, LoadPlan, PlanOp, PlannedSlot, SlotFormat, fault, length};
use crate::binding::SourceRange;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::slot::Slot;

const F32_BYTES: u64 = 4;

impl LoadPlan {
    /// Checks the plan again, so that a bug in its construction cannot corrupt device memory:
    ///
    /// * transfers are ordered by unit; their destinations are in ascending order inside the arena,
    ///   aligned and without overlap; the arena ends after the last of them;
    /// * every transfer writes as many bytes as its conversion makes of the source; no byte of a file
    ///   is read twice; the sums match the totals of the plan;
    /// * every weight of the model occurs once, in order, and its bytes follow from shape and format;
    ///   the weights of a transfer have its format and cover its destination without overlap.
    ///   Exceptions are a tied output, which is the token embedding, and scales, which the weights of
    ///   one tensor share;
    /// * scales are single `f32` values: a slot of a scale belongs to NVFP4 weights, and the scale of a
    ///   transfer to one that decodes NVFP4.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPlan`] with the first rule that is broken.
    pub fn verify(&self) -> Result<(), Error> {
        self.verify_destinations()?;
        self.verify_sources()?;
        self.verify_slots()?;
        self.verify_scales()?;
        self.verify_tiling()
    }

    fn verify_destinations(&self) -> Result<(), Error> {
        let (mut end, mut unit) = (0, 0);
        for op in &self.ops {
            let PlanOp { tensor, dest, .. } = op;
            if dest.start < end || !dest.start.is_multiple_of(ALIGNMENT) || dest.is_empty() {
                return Err(fault(format!("{tensor} goes to {dest:?} after byte {end}")));
            }
            if op.unit < unit || op.unit >= self.units() {
                return Err(fault(format!("{tensor} is in unit {} after {unit}", op.unit)));
            }
            (end, unit) = (dest.end, op.unit);
        }
        match end.checked_next_multiple_of(ALIGNMENT) {
            Some(arena) if arena == self.device_bytes => Ok(()),
            _ => Err(fault(format!(
                "the arena has {} bytes, but {end} bytes are used",
                self.device_bytes
            ))),
        }
    }

    fn verify_sources(&self) -> Result<(), Error> {
        let mut sources: Vec<&PlanOp> = self.ops.iter().collect();
        sources.sort_by_key(|op| (op.source.shard, op.source.range.start));
        let mut total = 0_u64;
        let mut previous: Option<&SourceRange> = None;
        for op in sources {
            let PlanOp { tensor, source, dest, .. } = op;
            let written = length(&source.range).and_then(|bytes| op.conversion.dest_bytes(bytes));
            if written.is_none() || written != length(dest) {
                return Err(fault(format!(
                    "{tensor} has bytes {:?} for {dest:?} ({:?})",
                    source.range, op.conversion
                )));
            }
            if previous.is_some_and(|previous| {
                previous.shard == source.shard && previous.range.end > source.range.start
            }) {
                return Err(fault(format!("{tensor} shares bytes of the file with another")));
            }
            previous = Some(source);
            total = length(&source.range)
                .and_then(|bytes| total.checked_add(bytes))
                .ok_or_else(|| fault("the bytes to read exceed 64 bits"))?;
        }
        if total == self.source_bytes {
            return Ok(());
        }
        Err(fault(format!("{total} bytes are read, but the plan states {}", self.source_bytes)))
    }

    fn verify_slots(&self) -> Result<(), Error> {
        let found = self.slots.iter().map(|planned| planned.slot);
        let is_required = |slot: &Slot| !slot.is_rope_factors() && !slot.is_scale();
        if !found.clone().filter(is_required).eq(Slot::required(self.layers)) {
            return Err(fault(format!("the weights are not those of {} layers", self.layers)));
        }
        if !found.is_sorted_by(|a, b| a < b) {
            return Err(fault("the weights are not in order"));
        }
        for planned in &self.slots {
            let PlannedSlot { slot, dest, shape, row_bytes, .. } = planned;
            let (rows, cols) = match **shape {
                [cols] => (1, cols),
                [rows, cols] => (rows, cols),
                _ => return Err(fault(format!("{slot} has the shape {shape:?}"))),
            };
            if planned.format.ggml_type().bytes_for(cols) != Some(*row_bytes)
                || rows.checked_mul(*row_bytes) != length(dest)
            {
                return Err(fault(format!("{slot}, {shape:?}, does not take the bytes {dest:?}")));
            }
        }
        Ok(())
    }

    fn verify_scales(&self) -> Result<(), Error> {
        for op in &self.ops {
            let Some(scale) = &op.scale else { continue };
            if op.conversion != Conversion::ToF16(GgmlType::NVFP4)
                || length(&scale.source.range) != Some(F32_BYTES)
            {
                return Err(fault(format!("{} is not scaled by {}", op.tensor, scale.name)));
            }
        }
        for planned in &self.slots {
            let (Slot::Scale(matrix) | Slot::InputScale(matrix)) = planned.slot else { continue };
            let is_nvfp4 = self
                .slot(matrix.slot())
                .is_some_and(|weights| weights.format == SlotFormat::Blocks(GgmlType::NVFP4));
            if !is_nvfp4 || planned.format != SlotFormat::F32 || *planned.shape != [1] {
                return Err(fault(format!("{} is not a scale of an NVFP4 weight", planned.slot)));
            }
        }
        Ok(())
    }

    fn verify_tiling(&self) -> Result<(), Error> {
        let mut parts: Vec<&PlannedSlot> =
            self.slots.iter().filter(|planned| !self.is_tied_output(planned)).collect();
        parts.sort_by_key(|planned| (planned.op, planned.dest.start));
        let mut parts = parts.into_iter().peekable();
        for (position, op) in self.ops.iter().enumerate() {
            let mut end = op.dest.start;
            while let Some(part) =
                parts.next_if(|part| part.op == position && part.dest.start == end)
            {
                if part.tensor != op.tensor {
                    return Err(fault(format!("{} is not in {}", part.slot, op.tensor)));
                }
                if part.format != op.format {
                    return Err(fault(format!(
                        "{} has another format than {}",
                        part.slot, op.tensor
                    )));
                }
                end = part.dest.end;
                let shares = |next: &&PlannedSlot| {
                    next.slot.is_scale() && (&next.tensor, &next.dest) == (&part.tensor, &part.dest)
                };
                while part.slot.is_scale() && parts.next_if(shares).is_some() {}
            }
            if end != op.dest.end {
                return Err(fault(format!("the weights of {} do not fill it exactly", op.tensor)));
            }
        }
        match parts.next() {
            None => Ok(()),
            Some(part) => Err(fault(format!("{} is outside its tensor", part.slot))),
        }
    }

    fn is_tied_output(&self, planned: &PlannedSlot) -> bool {
        planned.slot == Slot::Output
            && self.slot(Slot::TokenEmbedding).is_some_and(|embedding| {
                PlannedSlot { slot: Slot::Output, ..embedding.clone() } == *planned
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::TensorMap;
    use crate::config::Phi3Config;
    use crate::plan::Storage;
    use crate::preset::{Blueprint, Layout, Preset, TypeMix};
    use crate::slot::Matrix;
    use gguf_format::write::GgufWriter;
    use gguf_format::{Gguf, Limits};

    /// Returns the header and the first bytes of the data, which the parser requires if there is no padding.
    fn with_data(layout: &gguf_format::write::Layout) -> Vec<u8> {
        [layout.header(), &[0; 8]].concat()
    }

    fn plan(preset: Preset) -> LoadPlan {
        let blueprint = Blueprint::new(preset, Layout::Fused, TypeMix::Q8_0);
        let layout = blueprint.writer().layout().unwrap();
        let prefix = with_data(&layout);
        let limits = Limits::default();
        let gguf = Gguf::parse_header(&prefix, layout.file_len(), &limits).unwrap();
        let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).unwrap();
        let tensors = TensorMap::bind(&config, gguf.tensors()).unwrap();
        LoadPlan::new(&config, &tensors, Storage::F16).unwrap()
    }

    /// Returns the error of the plan that `spoil` has changed.
    #[track_caller]
    fn broken(spoil: impl FnOnce(&mut LoadPlan)) -> String {
        let mut plan = plan(Preset::Tiny);
        spoil(&mut plan);
        plan.verify().unwrap_err().to_string()
    }

    #[test]
    fn destinations_out_of_place_are_found() {
        for spoil in [
            |plan: &mut LoadPlan| plan.ops[3].dest.start += 2,
            |plan: &mut LoadPlan| plan.ops[3].dest.start -= 256,
            |plan: &mut LoadPlan| plan.ops[3].dest.end = 0,
            |plan: &mut LoadPlan| plan.ops.swap(3, 4),
        ] {
            assert!(broken(spoil).contains(" goes to "));
        }
        assert!(broken(|plan| plan.device_bytes -= 256).contains("the arena has"));
        assert!(broken(|plan| plan.ops[3].dest.end += 1 << 40).contains(" goes to "));
        assert!(broken(|plan| plan.ops.clear()).contains("the arena has"));
    }

    #[test]
    fn units_out_of_order_are_found() {
        assert!(broken(|plan| plan.ops[0].unit = 3).contains("after 3"));
        assert!(broken(|plan| plan.ops.last_mut().unwrap().unit = 5).contains("is in unit 5"));
    }

    #[test]
    fn sources_that_do_not_fill_their_destination_are_found() {
        assert!(broken(|plan| plan.ops[5].source.range.end += 34).contains("has bytes"));
        assert!(broken(|plan| plan.ops[5].conversion = Conversion::Copy).contains("has bytes"));
        assert!(broken(|plan| plan.ops[5].source.range.end = 0).contains("has bytes"));
        assert!(broken(|plan| plan.source_bytes += 1).contains("the plan states"));
    }

    #[test]
    fn bytes_read_twice_are_found() {
        let error = broken(|plan| {
            let length = length(&plan.ops[1].source.range).unwrap();
            let start = plan.ops[0].source.range.start;
            plan.ops[1].source.range = start..start + length;
        });
        assert!(error.contains("shares bytes"), "{error}");
        // The same range of another file is a different range.
        let mut plan = plan(Preset::Tiny);
        plan.ops[0].source.shard = 1;
        plan.verify().unwrap();
    }

    #[test]
    fn weights_that_are_missing_or_out_of_order_are_found() {
        assert!(broken(|plan| drop(plan.slots.remove(4))).contains("not those of 3 layers"));
        assert!(broken(|plan| plan.slots.swap(4, 5)).contains("not those of 3 layers"));
        assert!(broken(|plan| plan.slots.rotate_right(2)).contains("not in order"));
        assert!(broken(|plan| plan.layers = 4).contains("not those of 4 layers"));
    }

    #[test]
    fn shapes_that_do_not_account_for_their_bytes_are_found() {
        let wrong = "does not take the bytes";
        assert!(broken(|plan| plan.slots[2].shape[0] += 1).contains(wrong));
        assert!(broken(|plan| plan.slots[2].row_bytes += 1).contains(wrong));
        assert!(broken(|plan| plan.slots[2].format = SlotFormat::F32).contains(wrong));
        assert!(broken(|plan| plan.slots[2].shape.push(1)).contains("has the shape"));
    }

    #[test]
    fn weights_that_do_not_tile_their_tensor_are_found() {
        let moved = |slot: Slot| {
            broken(move |plan| {
                let position = plan.slots.iter().position(|p| p.slot == slot).unwrap();
                let dest = &mut plan.slots[position].dest;
                *dest = dest.start + 256..dest.end + 256;
            })
        };
        for slot in [Slot::AttnQ(0), Slot::AttnK(1), Slot::FfnDown(2), Slot::Output] {
            assert!(moved(slot).contains("do not fill it exactly"));
        }
        assert!(broken(|plan| plan.slots[2].op += 1).contains("do not fill it exactly"));
        assert!(broken(|plan| plan.slots[0].tensor = "other".into()).contains("is not in"));
    }

    #[test]
    fn slots_of_another_format_than_their_transfer_are_found() {
        let error = broken(|plan| plan.ops[2].format = SlotFormat::F32);
        assert!(error.contains("has another format than"), "{error}");
    }

    #[test]
    fn only_a_tied_output_may_alias() {
        let mut plan = plan(Preset::Phi4Mini);
        plan.verify().unwrap();
        let output = plan.slots.iter_mut().find(|p| p.slot == Slot::Output).unwrap();
        output.dest.start += output.row_bytes;
        output.shape[0] -= 1;
        assert!(plan.verify().is_err());
    }

    /// Returns the tiny preset as NVFP4 with scales.
    fn scaled(storage: Storage) -> LoadPlan {
        let mut writer = GgufWriter::new();
        let blueprint = Blueprint::new(Preset::Tiny, Layout::Fused, TypeMix::F16);
        for (key, value) in &blueprint.metadata {
            writer.kv(key, value.clone());
        }
        for tensor in &blueprint.tensors {
            if tensor.dims.len() == 1 {
                writer.tensor(&tensor.name, &tensor.dims, tensor.ggml_type);
            } else {
                writer.tensor(&tensor.name, &tensor.dims, GgmlType::NVFP4);
                writer.tensor(tensor.name.replace(".weight", ".scale"), &[1], GgmlType::F32);
            }
        }
        let layout = writer.layout().unwrap();
        let prefix = with_data(&layout);
        let limits = Limits::default();
        let gguf = Gguf::parse_header(&prefix, layout.file_len(), &limits).unwrap();
        let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).unwrap();
        LoadPlan::new(&config, &TensorMap::bind(&config, gguf.tensors()).unwrap(), storage).unwrap()
    }

    #[test]
    fn scales_of_the_wrong_weights_are_found() {
        let spoilt = |storage, spoil: fn(&mut LoadPlan)| {
            let mut plan = scaled(storage);
            plan.verify().unwrap();
            spoil(&mut plan);
            plan.verify().unwrap_err().to_string()
        };
        let position =
            |plan: &LoadPlan, slot| plan.slots.iter().position(|p| p.slot == slot).unwrap();
        let shrunk = spoilt(Storage::F16, |plan| {
            let scaled = plan.ops.iter_mut().find_map(|op| op.scale.as_mut());
            scaled.unwrap().source.range.end -= 1;
        });
        assert!(shrunk.contains("is not scaled by"), "{shrunk}");
        let beside_a_norm = spoilt(Storage::F16, |plan| {
            let scale = plan.ops.iter().find_map(|op| op.scale.clone());
            plan.ops.iter_mut().find(|op| op.tensor.contains("norm")).unwrap().scale = scale;
        });
        assert!(beside_a_norm.contains("is not scaled by"), "{beside_a_norm}");
        let mut plan = scaled(Storage::Native);
        let weights = position(&plan, Slot::FfnDown(1));
        plan.slots[weights].format = SlotFormat::Blocks(GgmlType::Q4_0);
        let error = plan.verify().unwrap_err().to_string();
        assert!(error.contains("layers.1.ffn_down.scale is not a scale"), "{error}");
        // Q, K and V share one place. No other slot may share it.
        let mut plan = scaled(Storage::Native);
        let (shared, other) = (
            position(&plan, Slot::Scale(Matrix::AttnK(0))),
            position(&plan, Slot::Scale(Matrix::FfnDown(0))),
        );
        plan.slots[shared].dest = plan.slots[other].dest.clone();
        assert!(plan.verify().is_err());
    }
}
