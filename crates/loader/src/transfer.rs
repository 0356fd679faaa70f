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
use model_phi3::{LoadPlan, PlanOp, SlotFormat};
use std::ops::ControlFlow;

/// Returns the engine's operations, in the order of the plan. For slots of floats, the engine counts
/// infinities and NaNs.
fn copy_ops(plan: &LoadPlan, scales: &Scales) -> Vec<CopyOp> {
    let ops = plan.ops().iter().zip(scales.iter());
    ops.map(|(op, scale)| copy_op(op, scale, floats_of(op.format))).collect()
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

/// Converts an operation of the plan into one of the engine. The engine identifies ggml types by number.
pub(crate) fn copy_op(op: &PlanOp, scale: Option<f32>, floats: Option<FloatFormat>) -> CopyOp {
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
        floats,
        columns: Columns::ALL,
    }
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

/// Moves all bytes of the plan into `buffer`.
pub(crate) fn run(
    engine: &mut Engine,
    source: &Source,
    options: TransferOptions,
    plan: &LoadPlan,
    scales: &Scales,
    buffer: &mut DeviceBuffer,
    observer: &mut dyn Observer,
) -> Result<Stats, Error> {
    let ops = copy_ops(plan, scales);
    let mut reporter = UnitReporter { plan, observer, reported: 0 };
    engine
        .execute(
            Request {
                sources: &source.files(),
                io: options.io,
                ops: &ops,
                units: plan.units(),
                digest: options.digest,
                timeline: options.timeline,
            },
            buffer,
            &mut |progress| reporter.report(progress),
        )
        .map_err(|error| source.engine_error(error))
}

/// The number of parts of a load after each of which its progress is logged.
const QUARTERS: u32 = 4;

/// Sends one event for each unit. The engine reports only the number of complete units.
struct UnitReporter<'a> {
    plan: &'a LoadPlan,
    observer: &'a mut dyn Observer,
    reported: u32,
}

impl UnitReporter<'_> {
    fn report(&mut self, progress: Progress) -> ControlFlow<()> {
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
        self.observer.event(&LoadEvent::Transferred { bytes: progress.bytes_done, of_bytes })
    }
}
