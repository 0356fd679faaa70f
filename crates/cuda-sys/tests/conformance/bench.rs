//! An engine with its destinations, and the files and operations that tests give to it.

use super::Setup;
use cuda_sys::{
    Columns, Conversion, CopyOp, Decoder, Device, DeviceBuffer, Engine, EngineConfig, Error,
    FloatFormat, Io, Progress, Request, Source, SourceFile, StagingRing, Stats, decoders,
};
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::ops::Range;
use std::os::fd::AsFd;

pub(super) struct Bench {
    pub(super) device: Device,
    pub(super) engine: Engine,
    pub(super) lanes: u32,
    setup: Setup,
}

impl Bench {
    pub(super) fn new(setup: Setup, config: EngineConfig) -> Self {
        let device = Device::open(setup.device).unwrap();
        let ring = StagingRing::new(config).unwrap();
        let devices = vec![&device; setup.lanes as usize];
        let engine = Engine::with_lanes(&devices, ring).unwrap();
        Self { device, engine, lanes: setup.lanes, setup }
    }

    pub(super) fn arena(&self, bytes: u64) -> Arena {
        let allocate = |_| self.setup.allocate(&self.device, bytes).unwrap();
        let lanes = (0..self.lanes).map(allocate).collect();
        Arena { lanes, owners: Vec::new() }
    }

    /// Executes operations on the lanes that they name.
    pub(super) fn execute(
        &mut self,
        request: Request<'_>,
        arena: &mut Arena,
        observe: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        arena.owners = owners(request.ops);
        let mut dests: Vec<_> = arena.lanes.iter_mut().collect();
        self.engine.execute_lanes(request, &mut dests, observe)
    }

    /// Executes operations, which go to the lanes in turn.
    pub(super) fn run(
        &mut self,
        file: &File,
        io: Io,
        ops: &[CopyOp],
        units: u32,
        arena: &mut Arena,
        observe: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        let ops = self.in_turn(ops);
        let sources = [whole(file)];
        let request =
            Request { digest: true, timeline: true, ..Request::new(&sources, io, &ops, units) };
        self.execute(request, arena, observe)
    }

    pub(super) fn in_turn(&self, ops: &[CopyOp]) -> Vec<CopyOp> {
        (0..).zip(ops).map(|(index, op)| CopyOp { lane: index % self.lanes, ..*op }).collect()
    }

    /// Executes operations without observing progress. Each is cut into one piece for every lane. Returns
    /// the content of the devices.
    pub(super) fn load(
        &mut self,
        file: &File,
        io: Io,
        ops: &[CopyOp],
        dest_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut arena = self.arena(dest_bytes);
        let units = ops.iter().map(|op| op.unit + 1).max().unwrap_or(0);
        let ops: Vec<_> = ops.iter().flat_map(|op| pieces(op, self.lanes)).collect();
        let sources = [whole(file)];
        let request =
            Request { digest: true, timeline: true, ..Request::new(&sources, io, &ops, units) };
        let stats = self.execute(request, &mut arena, &mut |_| ControlFlow::Continue(()))?;
        for (op, report) in ops.iter().zip(&stats.operations) {
            assert_eq!(report.source, report.device, "{op:?}");
        }
        Ok(arena.content())
    }
}

/// A destination for each lane, all with the size for which operations were made.
pub(super) struct Arena {
    pub(super) lanes: Vec<DeviceBuffer>,
    pub(super) owners: Vec<(usize, Range<usize>)>,
}

impl Arena {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        for lane in &mut self.lanes {
            lane.write(0, bytes).unwrap();
        }
    }

    /// Combines all lanes: takes each byte from the lane that received it, and other bytes from the first
    /// lane.
    pub(super) fn content(&self) -> Vec<u8> {
        let lanes: Vec<_> = self.lanes.iter().map(content).collect();
        let mut all = lanes[0].clone();
        for (lane, range) in &self.owners {
            all[range.clone()].copy_from_slice(&lanes[*lane][range.clone()]);
        }
        all
    }
}

/// Returns the destination range of each operation, with its lane.
pub(super) fn owners(ops: &[CopyOp]) -> Vec<(usize, Range<usize>)> {
    ops.iter()
        .map(|op| {
            let range =
                op.dest_offset as usize..op.dest_offset.saturating_add(op.dest_bytes) as usize;
            (op.lane as usize, range)
        })
        .collect()
}

/// Cuts an operation into one piece of whole blocks for each lane.
pub(super) fn pieces(op: &CopyOp, lanes: u32) -> Vec<CopyOp> {
    let (source_step, dest_step) = match op.conversion {
        Conversion::Copy => (16, 16),
        Conversion::ToF16 { ggml_type } | Conversion::ScaledToF16 { ggml_type, .. } => {
            let Decoder { block_bytes, block_len, .. } = decoder(ggml_type);
            // Pieces start on multiples of 16 bytes.
            let blocks = if block_len < 8 { 8 } else { 1 };
            (u64::from(blocks * block_bytes), u64::from(blocks * block_len * 2))
        }
    };
    let steps = op.dest_bytes / dest_step;
    let at = |lane: u32| steps * u64::from(lane) / u64::from(lanes);
    (0..lanes)
        .map(|lane| {
            let (begin, last) = (at(lane), lane + 1 == lanes);
            let end = |step, bytes| if last { bytes } else { at(lane + 1) * step };
            CopyOp {
                lane,
                source_offset: op.source_offset + begin * source_step,
                source_bytes: end(source_step, op.source_bytes) - begin * source_step,
                dest_offset: op.dest_offset + begin * dest_step,
                dest_bytes: end(dest_step, op.dest_bytes) - begin * dest_step,
                ..*op
            }
        })
        .collect()
}

pub(super) fn content(buffer: &DeviceBuffer) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(buffer.len()).unwrap()];
    buffer.read(0, &mut bytes).unwrap();
    bytes
}

pub(super) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Returns bytes without repetition, so that a misplaced piece is noticed.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// The file as a source, with its present length.
fn whole(file: &File) -> Source<'_> {
    SourceFile { file: file.as_fd(), bytes: file.metadata().unwrap().len() }.into()
}

pub(super) fn copy(source_offset: u64, bytes: u64, dest_offset: u64, unit: u32) -> CopyOp {
    CopyOp { unit, ..CopyOp::copy(source_offset, bytes, dest_offset) }
}

pub(super) fn decode(
    decoder: &Decoder,
    source_offset: u64,
    blocks: u64,
    dest_offset: u64,
) -> CopyOp {
    CopyOp {
        source: 0,
        lane: 0,
        source_offset,
        source_bytes: blocks * u64::from(decoder.block_bytes),
        dest_offset,
        dest_bytes: blocks * u64::from(decoder.block_len) * 2,
        conversion: Conversion::ToF16 { ggml_type: decoder.ggml_type },
        unit: 0,
        floats: Some(FloatFormat::F16),
        columns: Columns::ALL,
    }
}

pub(super) fn decoder(ggml_type: u32) -> Decoder {
    decoders().into_iter().find(|decoder| decoder.ggml_type == ggml_type).unwrap()
}
