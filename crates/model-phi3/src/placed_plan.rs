//! The load plan for several devices: an arena for each of them.

mod verify;

use std::ops::Range;
use std::sync::Arc;

use gguf_format::{GgmlType, Metadata, TensorInfo};

use crate::attention::AttentionShape;
use crate::binding::{BoundScale, BoundTensor, SourceRange, TensorMap};
use crate::config::Phi3Config;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::fused::{self, Fused, FusedSlot};
use crate::placement::{Division, Part, Placement};
use crate::plan::{
    ALIGNMENT, Form, LoadPlan, PlannedSlot, SlotFormat, Storage, TOO_LARGE, Unit, fault, length,
};
use crate::slot::Slot;
use crate::weights::Phi3Weights;

/// Alignment of every destination in bytes. The transfer engine accepts no smaller one.
const DEST_ALIGNMENT: u64 = 16;

/// One transfer to one device: rows of a tensor of the file, or some columns of all its rows.
///
/// Row `r` of the transfer is the [`row_stride`](Self::row_stride) bytes from `source.range.start + r * row_stride`.
/// Of each row, the bytes of [`row_range`](Self::row_range) are needed: whole blocks. If they are the whole row
/// ([`is_rows`](Self::is_rows)), the transfer is one range of the file. Otherwise the bytes are gathered row by row.
///
/// The blocks are converted. Then the first [`skip`](Self::skip) elements of each row are dropped, and the next
/// [`keep`](Self::keep) elements are row `r` of the destination: the [`dest_row_bytes`](Self::dest_row_bytes) bytes
/// from `dest.start + r * dest_row_bytes`. Elements are dropped only if half precision is cut inside a block of the
/// file; both devices then decode that block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacedOp {
    /// The name in the file. It is one of llama.cpp's names, so it needs no escaping.
    pub tensor: Arc<str>,
    /// The type in the file.
    pub source_type: GgmlType,
    /// The rows of the tensor. A vector has one row.
    pub rows: Range<u64>,
    /// The bytes of the file that hold these rows, all columns included.
    pub source: SourceRange,
    /// Bytes of one row in the file.
    pub row_stride: u64,
    /// The bytes of each row that are needed, counted from the start of the row: whole blocks.
    pub row_range: Range<u64>,
    /// Elements of the first of these blocks that do not belong to the part.
    pub skip: u64,
    /// Elements of each row that belong to the part.
    pub keep: u64,
    /// The bytes of the device's arena.
    pub dest: Range<u64>,
    /// Bytes of one row in the arena.
    pub dest_row_bytes: u64,
    /// The conversion of the bytes.
    pub conversion: Conversion,
    /// The `f32` factor of decoded values. They are multiplied by it before they are rounded to half precision.
    pub scale: Option<BoundScale>,
    /// The format of all slots in its destination.
    pub format: SlotFormat,
    /// The unit of progress it belongs to, from 0; see [`PlacedPlan::unit`].
    pub unit: u32,
}

impl PlacedOp {
    /// Returns whether whole rows are transferred, so that the source is one range of the file without gaps and no
    /// element is dropped.
    #[must_use]
    pub fn is_rows(&self) -> bool {
        let bytes_of_kept = self.source_type.bytes_for(self.keep);
        self.row_range == (0..self.row_stride) && bytes_of_kept == Some(self.row_stride)
    }

    /// Returns the bytes of the file that are needed: those of [`row_range`](Self::row_range) of all rows.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        let rows = self.rows.end.saturating_sub(self.rows.start);
        // Less than the bytes of the tensor, which fit into 64 bits.
        rows.saturating_mul(self.row_range.end.saturating_sub(self.row_range.start))
    }
}

/// The attention heads of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HeadRange {
    /// The first query head, counted in the whole model.
    pub first_head: u32,
    /// Query heads.
    pub heads: u32,
    /// The first key-value head, counted in the whole model.
    pub first_kv_head: u32,
    /// Key-value heads.
    pub kv_heads: u32,
}

/// One weight, or a part of it, in the arena of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacedSlot {
    /// Its place in the arena. [`shape`](PlannedSlot::shape) is that of the part, and [`op`](PlannedSlot::op) is a
    /// position in [`PlacedPart::ops`].
    pub planned: PlannedSlot,
    /// The rows of the whole weight that it holds; `0..1` for a vector.
    pub rows: Range<u64>,
    /// The columns of the whole weight that it holds. For a vector, its elements.
    pub cols: Range<u64>,
    /// The heads, if it is Q, K, V or the attention output.
    pub heads: Option<HeadRange>,
}

/// The arena of one device: what it holds, and how that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPart {
    layers: u32,
    ops: Vec<PlacedOp>,
    slots: Vec<PlacedSlot>,
    device_bytes: u64,
}

/// The plan of a load to several devices: plain data, made without a device.
///
/// Each device has an arena, a [`PlacedPart`]. A device may hold nothing; its arena then has 0 bytes. With one
/// device, the arena is that of the [`LoadPlan`].
///
/// A plan is proven when it is made: see [`verify`](Self::verify). Therefore, with the feature `serde`, it can be
/// serialised and not deserialised.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedPlan {
    placement: Placement,
    attention: AttentionShape,
    whole: LoadPlan,
    parts: Vec<PlacedPart>,
}

impl PlacedPlan {
    /// Reads the configuration of a model and makes its plan for several devices, in one call.
    ///
    /// # Errors
    ///
    /// Those of [`Phi3Config::from_gguf`], [`TensorMap::bind`] and [`new`](Self::new).
    pub fn from_gguf(
        metadata: &Metadata<'_>,
        tensors: &[TensorInfo<'_>],
        storage: Storage,
        placement: &Placement,
    ) -> Result<(Phi3Config, Self), Error> {
        let config = Phi3Config::from_gguf(metadata, tensors)?;
        let plan = Self::new(&config, &TensorMap::bind(&config, tensors)?, storage, placement)?;
        Ok((config, plan))
    }

    /// Divides the model among the devices and lays out each part.
    ///
    /// # Errors
    ///
    /// * [`Error::Placement`] if the model cannot be divided among this number of devices.
    /// * [`Error::NoConversion`], [`Error::TooLarge`] and [`Error::InvalidPlan`] as in [`LoadPlan::new`].
    pub fn new(
        config: &Phi3Config,
        tensors: &TensorMap,
        storage: Storage,
        placement: &Placement,
    ) -> Result<Self, Error> {
        let whole = LoadPlan::new(config, tensors, storage)?;
        let loaded: Vec<&BoundTensor> = tensors
            .tensors()
            .iter()
            .filter(|tensor| storage == Storage::Native || !tensor.is_scale())
            .collect();
        let division = Division::new(config, tensors, storage, placement)?;
        let parts = (0..placement.devices())
            .map(|device| PlacedPart::new(config.layers, &loaded, storage, &division, device))
            .collect::<Result<_, _>>()?;
        let plan =
            Self { placement: placement.clone(), attention: config.attention(), whole, parts };
        plan.verify()?;
        Ok(plan)
    }

    /// Returns the placement that the plan follows.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Returns the plan of the same load to one device.
    #[must_use]
    pub const fn whole(&self) -> &LoadPlan {
        &self.whole
    }

    /// Returns the arena of each device, in the order of the devices.
    #[must_use]
    pub fn parts(&self) -> &[PlacedPart] {
        &self.parts
    }

    /// Returns the format of the weights.
    #[must_use]
    pub const fn storage(&self) -> Storage {
        self.whole.storage()
    }

    /// Returns the number of transformer layers of the model.
    #[must_use]
    pub const fn layers(&self) -> u32 {
        self.whole.layers()
    }

    /// Returns the number of units of progress, as [`LoadPlan::units`] does. A unit can have transfers to several
    /// devices.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.whole.units()
    }

    /// Returns the unit of this number; see [`LoadPlan::unit`].
    #[must_use]
    pub fn unit(&self, number: u32) -> Option<Unit> {
        self.whole.unit(number)
    }

    /// Returns the sizes of all arenas together, in bytes.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        // Checked by `verify`, so this never saturates.
        self.parts.iter().fold(0, |sum, part| part.device_bytes.saturating_add(sum))
    }

    /// Returns the number of bytes of the files that are needed. A byte that several devices need counts once. Each
    /// [folded scale](PlacedOp::scale) adds four bytes.
    ///
    /// It is the number of the [whole](Self::whole) plan, because the devices together hold every weight.
    #[must_use]
    pub const fn source_bytes(&self) -> u64 {
        self.whole.source_bytes()
    }

    /// Returns the tensors of the file that are not loaded; see [`LoadPlan::left_out`].
    #[must_use]
    pub fn left_out(&self) -> &[Arc<str>] {
        self.whole.left_out()
    }
}

impl PlacedPart {
    fn new(
        layers: u32,
        tensors: &[&BoundTensor],
        storage: Storage,
        division: &Division,
        device: usize,
    ) -> Result<Self, Error> {
        let mut part = Self { layers, ops: Vec::new(), slots: Vec::new(), device_bytes: 0 };
        let heads = division.heads(device).map(|(heads, kv_heads)| HeadRange {
            first_head: heads.start,
            heads: heads.end.saturating_sub(heads.start),
            first_kv_head: kv_heads.start,
            kv_heads: kv_heads.end.saturating_sub(kv_heads.start),
        });
        for tensor in tensors {
            let held = tensor.slots.iter().filter_map(|of| {
                let rows = length(&of.rows)?;
                let part = division.part(device, of.slot, rows, tensor.cols)?;
                Some(Held { slot: of.slot, first_row: of.rows.start, part })
            });
            part.place(tensor, &Form::of(tensor, storage)?, held, heads)?;
        }
        part.slots.sort_by_key(|placed| placed.planned.slot);
        Ok(part)
    }

    /// Returns the bytes of the file that this device takes. If several devices take the same bytes, each counts them.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.ops.iter().map(PlacedOp::source_bytes).fold(0, u64::saturating_add)
    }

    /// Returns the transfers to this device, in the best order for reading. Their destinations have the same order.
    #[must_use]
    pub fn ops(&self) -> &[PlacedOp] {
        &self.ops
    }

    /// Returns the weights that the device holds, in slot order.
    #[must_use]
    pub fn slots(&self) -> &[PlacedSlot] {
        &self.slots
    }

    /// Returns one weight; `None` if the device holds nothing of it.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> Option<&PlacedSlot> {
        let position = self.slots.binary_search_by_key(&slot, |placed| placed.planned.slot).ok()?;
        self.slots.get(position)
    }

    /// Returns several weights as one matrix, or `None` if they are not one matrix in this arena: see
    /// [`LoadPlan::fused`]. If they are one tensor of the file, they are one matrix on every device that holds them,
    /// except if a weight before the last takes no multiple of 16 bytes.
    #[must_use]
    pub fn fused(&self, fused: Fused) -> Option<FusedSlot> {
        fused::view(fused, |slot| Some(&self.slot(slot)?.planned))
    }

    /// Returns the size of the arena in bytes: a multiple of 256, and 0 if the device holds nothing.
    #[must_use]
    pub const fn device_bytes(&self) -> u64 {
        self.device_bytes
    }

    /// Returns the weights as a struct. `f` makes the value of each weight from its position, which is `None` for
    /// a weight of which the device holds nothing. RoPE factors that the device does not hold are absent.
    ///
    /// # Errors
    ///
    /// The first error of `f`.
    pub fn weights<P, E>(
        &self,
        mut f: impl FnMut(Slot, Option<&PlacedSlot>) -> Result<P, E>,
    ) -> Result<Phi3Weights<P>, E> {
        let rope_factors = self.slot(Slot::RopeFactorsLong).is_some();
        Phi3Weights::try_from_fn(self.layers, rope_factors, |slot| f(slot, self.slot(slot)))
    }

    /// Lays out the parts of one tensor, one behind the other.
    fn place(
        &mut self,
        tensor: &BoundTensor,
        form: &Form,
        held: impl Iterator<Item = Held>,
        heads: Option<HeadRange>,
    ) -> Result<(), Error> {
        let format = form.format;
        let first_op = self.ops.len();
        for Held { slot, first_row, part } in held {
            let rows = part.tensor_rows(first_row).ok_or(TOO_LARGE)?;
            let op = match self.op_of(first_op, &rows)? {
                Some(op) => op,
                None => {
                    let start = self.next_start(first_op).ok_or(TOO_LARGE)?;
                    let cut = Cut::new(tensor, &part.cols, format).ok_or(TOO_LARGE)?;
                    self.ops.push(cut.op(tensor, form, &rows, start).ok_or(TOO_LARGE)?);
                    self.ops.len().saturating_sub(1)
                }
            };
            let filled = self.ops.get(op).ok_or_else(|| fault("a transfer is missing"))?;
            let dest = filled.dest_of(&rows).ok_or(TOO_LARGE)?;
            let shape = if tensor.vector {
                vec![filled.keep]
            } else {
                vec![length(&rows).ok_or(TOO_LARGE)?, filled.keep]
            };
            let planned = PlannedSlot {
                slot,
                tensor: Arc::clone(&tensor.name),
                source_type: tensor.ggml_type,
                op,
                shape,
                format,
                row_bytes: filled.dest_row_bytes,
                dest,
            };
            let heads = heads.filter(|_| has_heads(slot));
            self.slots.push(PlacedSlot { planned, rows: part.rows, cols: part.cols, heads });
        }
        if let Some(last) = self.ops.get(first_op..).and_then(<[_]>::last) {
            self.device_bytes =
                last.dest.end.checked_next_multiple_of(ALIGNMENT).ok_or(TOO_LARGE)?;
        }
        Ok(())
    }

    /// Returns the transfer that fills these rows: one that has them, or the last of the tensor, which is extended
    /// if they follow its own. `None` if a new transfer is needed.
    fn op_of(&mut self, first_op: usize, rows: &Range<u64>) -> Result<Option<usize>, Error> {
        let ops = self.ops.get(first_op..).unwrap_or_default();
        let has = |op: &PlacedOp| op.rows.start <= rows.start && rows.end <= op.rows.end;
        if let Some(position) = ops.iter().position(has) {
            return Ok(first_op.checked_add(position));
        }
        let last = self.ops.len().saturating_sub(1);
        match self.ops.get_mut(last) {
            Some(op) if last >= first_op && op.rows.end == rows.start => {
                op.extend(rows.end).ok_or(TOO_LARGE)?;
                Ok(Some(last))
            }
            _ => Ok(None),
        }
    }

    /// Returns the start of the next transfer of a tensor: directly behind the one before, so that both can be one
    /// matrix, if the engine accepts that.
    fn next_start(&self, first_op: usize) -> Option<u64> {
        match self.ops.get(first_op..).and_then(<[_]>::last) {
            None => Some(self.device_bytes),
            Some(before) if before.dest.end.is_multiple_of(DEST_ALIGNMENT) => Some(before.dest.end),
            Some(before) => before.dest.end.checked_next_multiple_of(ALIGNMENT),
        }
    }
}

/// A part of a weight that a device holds, and the first row of the whole weight in its tensor.
struct Held {
    slot: Slot,
    first_row: u64,
    part: Part,
}

impl Part {
    /// Returns its rows, counted in the tensor.
    fn tensor_rows(&self, first_row: u64) -> Option<Range<u64>> {
        Some(first_row.checked_add(self.rows.start)?..first_row.checked_add(self.rows.end)?)
    }
}

const fn has_heads(slot: Slot) -> bool {
    matches!(slot, Slot::AttnQ(_) | Slot::AttnK(_) | Slot::AttnV(_) | Slot::AttnOutput(_))
}

/// The bytes of each row that hold some columns.
struct Cut {
    row_stride: u64,
    row_range: Range<u64>,
    skip: u64,
    keep: u64,
    dest_row_bytes: u64,
}

impl Cut {
    fn new(tensor: &BoundTensor, cols: &Range<u64>, format: SlotFormat) -> Option<Self> {
        let (block_len, block_bytes) =
            (tensor.ggml_type.block_len(), tensor.ggml_type.block_bytes());
        let keep = length(cols)?;
        Some(Self {
            row_stride: tensor.ggml_type.bytes_for(tensor.cols)?,
            row_range: cols.start.checked_div(block_len)?.checked_mul(block_bytes)?
                ..cols.end.div_ceil(block_len).checked_mul(block_bytes)?,
            skip: cols.start.checked_rem(block_len)?,
            keep,
            dest_row_bytes: format.ggml_type().bytes_for(keep)?,
        })
    }

    /// Makes the transfer of these rows to the bytes of the arena from `start`.
    fn op(
        self,
        tensor: &BoundTensor,
        form: &Form,
        rows: &Range<u64>,
        start: u64,
    ) -> Option<PlacedOp> {
        let Self { row_stride, row_range, skip, keep, dest_row_bytes } = self;
        let source_start =
            rows.start.checked_mul(row_stride)?.checked_add(tensor.source.range.start)?;
        let mut op = PlacedOp {
            tensor: Arc::clone(&tensor.name),
            source_type: tensor.ggml_type,
            rows: rows.start..rows.start,
            source: SourceRange { shard: tensor.source.shard, range: source_start..source_start },
            row_stride,
            row_range,
            skip,
            keep,
            dest: start..start,
            dest_row_bytes,
            conversion: form.conversion,
            scale: form.scale.clone(),
            format: form.format,
            unit: tensor.unit,
        };
        op.extend(rows.end)?;
        Some(op)
    }
}

impl PlacedOp {
    /// Adds the rows up to `end`.
    fn extend(&mut self, end: u64) -> Option<()> {
        let rows = length(&(self.rows.start..end))?;
        let source = &mut self.source.range;
        source.end = rows.checked_mul(self.row_stride)?.checked_add(source.start)?;
        self.dest.end = rows.checked_mul(self.dest_row_bytes)?.checked_add(self.dest.start)?;
        self.rows.end = end;
        Some(())
    }

    /// Returns the bytes of the arena that these rows of the tensor take.
    fn dest_of(&self, rows: &Range<u64>) -> Option<Range<u64>> {
        let offset = |row: u64| {
            row.checked_sub(self.rows.start)?
                .checked_mul(self.dest_row_bytes)?
                .checked_add(self.dest.start)
        };
        Some(offset(rows.start)?..offset(rows.end)?)
    }
}
