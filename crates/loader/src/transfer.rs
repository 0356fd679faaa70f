//! Converts a load plan into engine operations, and the engine's progress into events for each unit.

use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use crate::options::{LoadOptions, Verify};
use crate::scales::Scales;
use crate::source::Source;
use cuda_sys::{
    Columns, Conversion, CopyOp, DeviceBuffer, Engine, FloatFormat, Io, Progress, Request, Stats,
};
use gguf_format::GgmlType;
use model_phi3::{PlacedOp, PlacedPart, PlacedPlan, SlotFormat};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// An operation of one part of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move<'a> {
    /// The number of the part, which is the engine's lane.
    pub(crate) part: usize,
    /// The position of the tensor's operation in the whole plan.
    pub(crate) tensor: usize,
    pub(crate) op: &'a PlacedOp,
}

/// Returns the operations of all parts in the order of the whole plan. Within a tensor they are ordered by their place
/// in the file, because the engine reads bytes once if the operations that need them follow each other.
pub(crate) fn moves(plan: &PlacedPlan) -> Vec<Move<'_>> {
    let names = plan.whole().ops().iter().map(|op| &*op.tensor);
    let positions: HashMap<_, _> = names.zip(0..).collect();
    let mut moves: Vec<_> = (0..)
        .zip(plan.parts())
        .flat_map(|(part, of_part)| of_part.ops().iter().map(move |op| (part, op)))
        // The whole plan has every tensor of a part.
        .filter_map(|(part, op)| Some(Move { part, tensor: *positions.get(&*op.tensor)?, op }))
        .collect();
    moves.sort_by_key(|of| (of.tensor, of.op.source.range.start, of.part));
    moves
}

/// Returns the float format in which the engine counts infinities and NaNs. `None` for quantised blocks,
/// because the engine counts only in decoded weights.
fn floats_of(format: SlotFormat) -> Option<FloatFormat> {
    match format.ggml_type() {
        GgmlType::F16 => Some(FloatFormat::F16),
        GgmlType::BF16 => Some(FloatFormat::BF16),
        GgmlType::F32 => Some(FloatFormat::F32),
        GgmlType::F64 => Some(FloatFormat::F64),
        _ => None,
    }
}

impl Move<'_> {
    /// Returns the engine's operation, which also counts infinities and NaNs in slots of floats.
    fn copy_op(&self, scales: &Scales) -> CopyOp {
        CopyOp {
            lane: u32::try_from(self.part).unwrap_or(u32::MAX),
            floats: floats_of(self.op.format),
            ..copy_op(self.op, scales.of(self.tensor))
        }
    }
}

/// Converts an operation of the plan into one of the engine's first lane. The engine identifies ggml types by number.
pub(crate) fn copy_op(op: &PlacedOp, scale: Option<f32>) -> CopyOp {
    CopyOp {
        source: u32::try_from(op.source.shard).unwrap_or(u32::MAX),
        lane: 0,
        source_offset: op.source.range.start,
        source_bytes: op.source.range.end - op.source.range.start,
        dest_offset: op.dest.start,
        dest_bytes: op.dest.end - op.dest.start,
        conversion: match (op.conversion, scale) {
            (model_phi3::Conversion::Copy, _) => Conversion::Copy,
            (model_phi3::Conversion::ToF16(ggml_type), None) => {
                Conversion::ToF16 { ggml_type: ggml_type.id() }
            }
            (model_phi3::Conversion::ToF16(ggml_type), Some(scale)) => {
                Conversion::ScaledToF16 { ggml_type: ggml_type.id(), scale }
            }
        },
        unit: op.unit,
        floats: None,
        columns: columns_of(op),
    }
}

fn columns_of(op: &PlacedOp) -> Columns {
    if op.is_rows() {
        return Columns::ALL;
    }
    // The engine keeps all bytes of an operation that it does not convert.
    let elements = |count: u64| match op.conversion {
        model_phi3::Conversion::Copy => 0,
        _ => u32::try_from(count).unwrap_or(u32::MAX),
    };
    Columns {
        row_bytes: op.row_stride,
        begin: op.row_range.start,
        end: op.row_range.end,
        skip: elements(op.skip),
        keep: elements(op.keep),
    }
}

/// Returns the size of the smallest chunks with which an engine accepts the plan; 0 if any size is enough.
pub(crate) fn least_chunk_bytes(plan: &PlacedPlan) -> u64 {
    let mut of_parts = plan.parts().iter().flat_map(PlacedPart::ops);
    if of_parts.all(PlacedOp::is_rows) {
        return 0;
    }
    let ops: Vec<_> = moves(plan).iter().map(|of| copy_op(of.op, None)).collect();
    cuda_sys::least_chunk_bytes(&ops)
}

/// The options of a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransferOptions {
    pub(crate) io: Io,
    pub(crate) digest: bool,
    pub(crate) timeline: bool,
}

impl TransferOptions {
    pub(crate) fn of_load(options: &LoadOptions) -> Self {
        Self {
            io: options.io,
            digest: options.verify >= Verify::Checksum,
            timeline: options.timeline,
        }
    }
}

/// Moves all bytes of the plan into the buffers. There is one buffer for each part of the plan, which is a lane of the
/// engine.
pub(crate) fn run(
    engine: &mut Engine,
    source: &Source,
    options: TransferOptions,
    plan: &PlacedPlan,
    scales: &Scales,
    buffers: &mut [&mut DeviceBuffer],
    observer: &mut dyn Observer,
) -> Result<Stats, Error> {
    let ops: Vec<_> = moves(plan).iter().map(|of| of.copy_op(scales)).collect();
    let mut reporter = UnitReporter { plan, observer, reported: 0 };
    engine
        .execute_lanes(
            Request {
                sources: &source.files(),
                io: options.io,
                ops: &ops,
                units: plan.units(),
                digest: options.digest,
                timeline: options.timeline,
            },
            buffers,
            &mut |progress| reporter.report(progress),
        )
        .map_err(|error| source.engine_error(error))
}

/// The number of parts of a load after each of which its progress is logged.
const QUARTERS: u32 = 4;

/// Sends one event for each unit. The engine reports only the number of complete units.
struct UnitReporter<'a> {
    plan: &'a PlacedPlan,
    observer: &'a mut dyn Observer,
    reported: u32,
}

impl UnitReporter<'_> {
    fn report(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        let (of, of_bytes) = (self.plan.units(), self.plan.source_bytes());
        while self.reported < progress.units_done {
            let label = self.plan.unit(self.reported).map(|unit| unit.to_string());
            let label = label.unwrap_or_default();
            self.reported += 1;
            // Events count units from 1.
            let unit = self.reported;
            let bytes = progress.bytes_done;
            tracing::debug!(unit, of, bytes, "{label}");
            // At each quarter. The end of the load has an event of its own.
            if unit < of && unit * QUARTERS / of != (unit - 1) * QUARTERS / of {
                tracing::info!(unit, of, bytes, of_bytes, "loading");
            }
            let label = label.into();
            self.observer.event(&LoadEvent::Progress { unit, of, label, bytes, of_bytes })?;
        }
        // The lanes of helpers have no part.
        let parts = self.plan.parts().len().min(progress.lane_bytes.len());
        let part_bytes = progress.lane_bytes[..parts].into();
        let bytes = progress.bytes_done;
        self.observer.event(&LoadEvent::Transferred { bytes, of_bytes, part_bytes })
    }
}
