//! The requirements for every device, written once. `host.rs` and `gpu.rs` run them on their device, with
//! one lane and with several.

use cuda_sys::{
    Conversion, CopyOp, Decoder, Device, DeviceBuffer, DeviceKind, Digest, Engine, EngineConfig,
    Error, ErrorCode, FloatFormat, Io, Progress, Request, SourceFile, SpanKind, StagingRing, Stats,
    decoders,
};
use half::f16;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::ops::Range;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

mod digest_definition;
mod fake_lanes;
mod lanes;
mod measure;
mod sources;
pub(crate) use fake_lanes::{a_lane_whose_device_fails_is_named, slow_lanes_get_their_bytes};
pub(crate) use lanes::{
    a_slot_waits_for_every_lane, destinations_must_match_the_lanes,
    several_lanes_get_the_bytes_of_one,
};
pub(crate) use measure::{every_work_has_a_rate, uploads_have_a_rate_on_a_gpu};
pub(crate) use sources::{
    a_call_can_be_cancelled_at_every_read, a_source_in_memory_is_read, every_read_fails_once,
    sources_that_wait_get_more_readers,
};

const F32: u32 = 0;
const SMALL: EngineConfig = EngineConfig::new(3, 2, 4096, 4096);
/// Chunks that readers fill together.
const SHARED: EngineConfig = EngineConfig::new(5, 3, 40_000, 9000);
/// Large chunks, each read by one reader.
const LARGE: EngineConfig = EngineConfig::new(2, 1, 1 << 20, 1 << 20);
const IOS: [Io; 4] = [Io::Read, Io::Mapped, Io::Direct, Io::Auto];

/// The device and the lanes of a suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) device: DeviceKind,
    /// Number of destinations, all on this device.
    pub(crate) lanes: u32,
}

/// Expands to one `#[test]` for each test of the suite that concerns one device and its memory, or that
/// adds a lane to another device.
macro_rules! device_suite {
    ($device:expr) => {
        conformance::tests! { $device;
            absurd_allocations_are_out_of_memory,
            buffers_report_their_device,
            a_flipped_bit_changes_one_digest,
            several_threads_can_use_one_buffer,
            slow_lanes_get_their_bytes,
            a_lane_whose_device_fails_is_named,
            every_work_has_a_rate,
            uploads_have_a_rate_on_a_gpu,
        }
    };
}
pub(crate) use device_suite;

/// Expands to one `#[test]` for each test of the suite that concerns engines.
macro_rules! engine_suite {
    ($setup:expr) => {
        conformance::tests! { $setup;
            decoders_match_gguf_py,
            a_tensor_scale_multiplies_before_rounding,
            copies_exactly_under_every_division,
            small_tensors_share_chunks,
            gaps_between_tensors_stay_unchanged,
            reports_progress_in_order,
            an_empty_request_succeeds,
            cancelling_stops_and_leaves_the_engine_usable,
            observer_panics_cross_the_bridge_safely,
            a_truncated_file_is_noticed,
            a_failing_read_carries_errno,
            bad_operations_are_refused,
            bad_configurations_are_refused,
            handles_move_between_threads,
            engines_run_side_by_side,
            digests_match_their_definition,
            infinities_and_nans_are_counted,
            floats_of_every_format_are_counted,
            operations_of_zeros_alone_are_found,
            the_timeline_has_every_chunk,
            readers_take_stretches,
            storage_gets_more_readers,
            a_source_in_memory_is_read,
            every_read_fails_once,
            a_call_can_be_cancelled_at_every_read,
            sources_that_wait_get_more_readers,
            several_lanes_get_the_bytes_of_one,
            a_slot_waits_for_every_lane,
            destinations_must_match_the_lanes,
        }
    };
}
pub(crate) use engine_suite;

macro_rules! tests {
    ($argument:expr; $($test:ident),* $(,)?) => {
        $(#[test] fn $test() { conformance::$test($argument); })*
    };
}
pub(crate) use tests;

fn testdata() -> PathBuf {
    // The GPU archive runs far from the sources, and this variable has the path of its copy.
    std::env::var_os("PHI3_LOADER_TESTDATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata")),
        PathBuf::from,
    )
}

struct Bench {
    device: Device,
    engine: Engine,
    lanes: u32,
}

impl Bench {
    fn new(setup: Setup, config: EngineConfig) -> Self {
        let device = Device::open(setup.device).unwrap();
        let ring = StagingRing::new(config).unwrap();
        let devices = vec![&device; setup.lanes as usize];
        let engine = Engine::with_lanes(&devices, ring).unwrap();
        Self { device, engine, lanes: setup.lanes }
    }

    fn arena(&self, bytes: u64) -> Arena {
        let lanes = (0..self.lanes).map(|_| self.device.allocate(bytes).unwrap()).collect();
        Arena { lanes, owners: Vec::new() }
    }

    /// Executes operations on the lanes that they name.
    fn execute(
        &mut self,
        request: Request<'_>,
        arena: &mut Arena,
        observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        arena.owners = owners(request.ops);
        let mut dests: Vec<_> = arena.lanes.iter_mut().collect();
        self.engine.execute_lanes(request, &mut dests, observe)
    }

    /// Executes operations, which go to the lanes in turn.
    fn run(
        &mut self,
        file: &File,
        io: Io,
        ops: &[CopyOp],
        units: u32,
        arena: &mut Arena,
        observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        let ops = self.in_turn(ops);
        let sources =
            [SourceFile { file: file.as_fd(), bytes: file.metadata().unwrap().len() }.into()];
        let request =
            Request { sources: &sources, io, ops: &ops, units, digest: true, timeline: true };
        self.execute(request, arena, observe)
    }

    fn in_turn(&self, ops: &[CopyOp]) -> Vec<CopyOp> {
        (0..).zip(ops).map(|(index, op)| CopyOp { lane: index % self.lanes, ..*op }).collect()
    }

    /// Executes operations without observing progress. Each is cut into one piece for every lane. Returns
    /// the content of the devices.
    fn load(
        &mut self,
        file: &File,
        io: Io,
        ops: &[CopyOp],
        dest_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut arena = self.arena(dest_bytes);
        let units = ops.iter().map(|op| op.unit + 1).max().unwrap_or(0);
        let ops: Vec<_> = ops.iter().flat_map(|op| pieces(op, self.lanes)).collect();
        let sources =
            [SourceFile { file: file.as_fd(), bytes: file.metadata().unwrap().len() }.into()];
        let request =
            Request { sources: &sources, io, ops: &ops, units, digest: true, timeline: true };
        let stats = self.execute(request, &mut arena, &mut |_| ControlFlow::Continue(()))?;
        for (op, report) in ops.iter().zip(&stats.operations) {
            assert_eq!(report.source, report.device, "{op:?}");
        }
        Ok(arena.content())
    }
}

/// A destination for each lane, all with the size for which operations were made.
struct Arena {
    lanes: Vec<DeviceBuffer>,
    owners: Vec<(usize, Range<usize>)>,
}

impl Arena {
    fn write(&mut self, bytes: &[u8]) {
        for lane in &mut self.lanes {
            lane.write(0, bytes).unwrap();
        }
    }

    /// Combines all lanes: takes each byte from the lane that received it, and other bytes from the first
    /// lane.
    fn content(&self) -> Vec<u8> {
        let lanes: Vec<_> = self.lanes.iter().map(content).collect();
        let mut all = lanes[0].clone();
        for (lane, range) in &self.owners {
            all[range.clone()].copy_from_slice(&lanes[*lane][range.clone()]);
        }
        all
    }
}

/// Returns the destination range of each operation, with its lane.
fn owners(ops: &[CopyOp]) -> Vec<(usize, Range<usize>)> {
    ops.iter()
        .map(|op| {
            let range =
                op.dest_offset as usize..op.dest_offset.saturating_add(op.dest_bytes) as usize;
            (op.lane as usize, range)
        })
        .collect()
}

/// Cuts an operation into one piece of whole blocks for each lane.
fn pieces(op: &CopyOp, lanes: u32) -> Vec<CopyOp> {
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

fn content(buffer: &DeviceBuffer) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(buffer.len()).unwrap()];
    buffer.read(0, &mut bytes).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Returns bytes without repetition, so that a misplaced piece is noticed.
fn noise(len: usize) -> Vec<u8> {
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

fn copy(source_offset: u64, bytes: u64, dest_offset: u64, unit: u32) -> CopyOp {
    CopyOp {
        file: 0,
        lane: 0,
        source_offset,
        source_bytes: bytes,
        dest_offset,
        dest_bytes: bytes,
        conversion: Conversion::Copy,
        unit,
        floats: None,
    }
}

fn decode(decoder: &Decoder, source_offset: u64, blocks: u64, dest_offset: u64) -> CopyOp {
    CopyOp {
        file: 0,
        lane: 0,
        source_offset,
        source_bytes: blocks * u64::from(decoder.block_bytes),
        dest_offset,
        dest_bytes: blocks * u64::from(decoder.block_len) * 2,
        conversion: Conversion::ToF16 { ggml_type: decoder.ggml_type },
        unit: 0,
        floats: Some(FloatFormat::F16),
    }
}

fn decoder(ggml_type: u32) -> Decoder {
    decoders().into_iter().find(|decoder| decoder.ggml_type == ggml_type).unwrap()
}

/// Blocks of one type, and the halves that gguf-py decodes them to.
pub(crate) struct Golden {
    pub(crate) decoder: Decoder,
    pub(crate) blocks: Vec<u8>,
    pub(crate) halves: Vec<u8>,
}

fn golden_file(name: String) -> Vec<u8> {
    let path = testdata().join("decode").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn goldens() -> Vec<Golden> {
    decoders()
        .into_iter()
        .map(|decoder| Golden {
            blocks: golden_file(format!("{}.blocks", decoder.name)),
            halves: golden_file(format!("{}.f16", decoder.name)),
            decoder,
        })
        .collect()
}

/// Every decoder gives the values of gguf-py, for every division into chunks and every position in the
/// file.
pub(crate) fn decoders_match_gguf_py(setup: Setup) {
    for config in [SMALL, SHARED, LARGE] {
        let mut bench = Bench::new(setup, config);
        for golden in goldens() {
            for lead in [0, 1, 32] {
                let file = file_of(&[noise(lead), golden.blocks.clone()].concat());
                let blocks = golden.blocks.len() as u64 / u64::from(golden.decoder.block_bytes);
                let op = decode(&golden.decoder, lead as u64, blocks, 0);
                let got = bench.load(&file, Io::Read, &[op], op.dest_bytes).unwrap();
                let what = format!("{} at byte {lead}, {config:?}", golden.decoder.name);
                let differs = got.iter().zip(&golden.halves).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{what}: first differing byte");
            }
        }
    }
}

/// Returns factors of whole tensors, and the golden's halves from gguf-py with each factor.
pub(crate) fn scaled_halves(golden: &Golden) -> Vec<(f32, Vec<u8>)> {
    let name = &golden.decoder.name;
    let scales = golden_file(format!("{name}.scales"));
    let scaled = golden_file(format!("{name}.scaled.f16"));
    let scales = scales.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let halves = scaled.chunks_exact(golden.halves.len()).map(<[u8]>::to_vec);
    assert_eq!(scales.len(), halves.len());
    scales.zip(halves).collect()
}

/// Types with a factor for the whole tensor give the values of gguf-py with that factor, also in one launch
/// with others. Other types accept no factor.
pub(crate) fn a_tensor_scale_multiplies_before_rounding(setup: Setup) {
    let mut scaled_types = 0;
    for golden in goldens() {
        let ggml_type = golden.decoder.ggml_type;
        let blocks = golden.blocks.len() as u64 / u64::from(golden.decoder.block_bytes);
        let plain = decode(&golden.decoder, 0, blocks, 0);
        let scaled = |scale| Conversion::ScaledToF16 { ggml_type, scale };
        let file = file_of(&golden.blocks);
        if !golden.decoder.has_tensor_scale {
            let op = CopyOp { conversion: scaled(2.0), ..plain };
            let refused =
                Bench::new(setup, SMALL).load(&file, Io::Read, &[op], op.dest_bytes).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::InvalidArgument, "{}", golden.decoder.name);
            continue;
        }
        scaled_types += 1;
        let expected = scaled_halves(&golden);
        let ops: Vec<_> = (0..)
            .zip(&expected)
            .map(|(index, (scale, _))| CopyOp {
                dest_offset: index * plain.dest_bytes,
                conversion: scaled(*scale),
                ..plain
            })
            .collect();
        for config in [SMALL, SHARED, LARGE] {
            let all_bytes = ops.len() as u64 * plain.dest_bytes;
            let got = Bench::new(setup, config).load(&file, Io::Read, &ops, all_bytes).unwrap();
            for (got, (scale, want)) in got.chunks(golden.halves.len()).zip(&expected) {
                let differs = got.iter().zip(want).position(|(a, b)| a != b);
                let what = format!("{} times {scale}, {config:?}", golden.decoder.name);
                assert_eq!(differs, None, "{what}: first differing byte");
            }
        }
    }
    assert!(scaled_types > 0);
}

/// All ways of reading give the same bytes under every division of the work.
pub(crate) fn copies_exactly_under_every_division(setup: Setup) {
    let bytes = noise(300_001);
    let file = file_of(&bytes);
    for io in IOS {
        for config in [
            EngineConfig::new(1, 1, 0, 0),
            SMALL,
            SHARED,
            EngineConfig::new(8, 3, 65_537, 1 << 20),
            EngineConfig::new(2, 40, 10_000, 4096),
            EngineConfig::new(16, 2, 1 << 20, 5000),
            LARGE,
        ] {
            let mut bench = Bench::new(setup, config);
            // The second piece comes first in the destination.
            let ops = [copy(7, 200_000, 100_048, 0), copy(200_007, 99_994, 0, 1)];
            let got = bench.load(&file, io, &ops, 300_048).unwrap();
            assert_eq!(&got[100_048..300_048], &bytes[7..200_007], "{io:?} {config:?}");
            assert_eq!(&got[..99_994], &bytes[200_007..300_001], "{io:?} {config:?}");
        }
    }
}

/// Many small tensors of different kinds share chunks and still land where they belong.
pub(crate) fn small_tensors_share_chunks(setup: Setup) {
    let f32_type = decoder(F32);
    let tensors = 3000_u64;
    let mut source = Vec::new();
    let mut ops = Vec::new();
    let mut want = Vec::new();
    for index in 0..tensors {
        let offset = source.len() as u64;
        let dest_offset = want.len() as u64;
        if index % 3 == 0 {
            // 9 values: not a whole group of eight.
            for value in 0..9_u16 {
                let value = f32::from(value) + index as f32;
                source.extend_from_slice(&value.to_le_bytes());
                want.extend_from_slice(&f16::from_f32(value).to_le_bytes());
            }
            ops.push(decode(&f32_type, offset, 9, dest_offset));
        } else {
            let bytes = noise(40 + (index % 50) as usize);
            source.extend_from_slice(&bytes);
            want.extend_from_slice(&bytes);
            ops.push(copy(offset, bytes.len() as u64, dest_offset, 0));
        }
        source.resize(source.len().next_multiple_of(32), 0xee);
        want.resize(want.len().next_multiple_of(16), 0);
    }
    let file = file_of(&source);
    let mut bench = Bench::new(setup, EngineConfig { chunk_bytes: 1 << 16, ..SHARED });
    let mut dest = bench.arena(want.len() as u64);
    let stats =
        bench.run(&file, Io::Read, &ops, 1, &mut dest, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(stats.chunks < tensors / 100, "{} reads for {tensors} tensors", stats.chunks);
    let got = dest.content();
    for op in &ops {
        let range = op.dest_offset as usize..(op.dest_offset + op.dest_bytes) as usize;
        assert_eq!(got[range.clone()], want[range], "{op:?}");
    }
}

/// Bytes between tensors stay unchanged, whether the tensors are neighbours in the file, at the
/// destination, at both or at neither.
pub(crate) fn gaps_between_tensors_stay_unchanged(setup: Setup) {
    const UNTOUCHED: u8 = 0xcc;
    const GAP: u64 = 64;
    for tensors in [2, 3, 5, 40_u64] {
        for pattern in 0..16_u64 {
            let (mut source, mut dest) = (0, 0);
            let ops: Vec<_> = (0..tensors)
                .map(|index| {
                    let bytes = 16 * (1 + index % 7);
                    let op = copy(source, bytes, dest, 0);
                    // Two bits of the pattern for every second boundary.
                    let gaps = pattern >> (2 * (index % 2));
                    source += bytes + if gaps & 1 != 0 { GAP } else { 0 };
                    dest += bytes + if gaps & 2 != 0 { GAP } else { 0 };
                    op
                })
                .collect();
            let bytes = noise(source as usize);
            let mut want = vec![UNTOUCHED; dest as usize];
            for op in &ops {
                let (from, to) = (op.source_offset as usize, op.dest_offset as usize);
                let len = op.source_bytes as usize;
                want[to..to + len].copy_from_slice(&bytes[from..from + len]);
            }
            let file = file_of(&bytes);
            for config in [LARGE, SMALL] {
                let mut bench = Bench::new(setup, config);
                let mut buffer = bench.arena(dest);
                buffer.write(&vec![UNTOUCHED; dest as usize]);
                bench
                    .run(&file, Io::Read, &ops, 1, &mut buffer, &mut |_| ControlFlow::Continue(()))
                    .unwrap();
                assert!(buffer.content() == want, "{tensors} tensors, {pattern:04b}, {config:?}");
            }
        }
    }
}

/// Units are reported in order, the last report is complete, and bytes never go back.
pub(crate) fn reports_progress_in_order(setup: Setup) {
    let file = file_of(&noise(1 << 20));
    let ops: Vec<_> = (0..16)
        .map(|unit| copy(u64::from(unit) << 16, 1 << 16, u64::from(unit) << 16, unit))
        .collect();
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(1 << 20);
    let mut seen: Vec<Progress> = Vec::new();
    bench
        .run(&file, Io::Read, &ops, 16, &mut dest, &mut |progress| {
            seen.push(progress);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.units_done));
    assert!(seen.is_sorted_by_key(|progress| progress.bytes_done));
    let last = seen.last().unwrap();
    assert_eq!((last.units_done, last.bytes_done), (16, 1 << 20));
}

/// An empty list of operations is a success, and units without bytes are complete.
pub(crate) fn an_empty_request_succeeds(setup: Setup) {
    let file = file_of(b"");
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(0);
    assert!(dest.lanes.iter().all(|lane| lane.address() == 0));
    let mut last = None;
    for io in IOS {
        bench
            .run(&file, io, &[], 3, &mut dest, &mut |progress| {
                last = Some(progress.units_done);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(last.take(), Some(3));
    }
}

/// Makes `interrupted` end a transfer of many chunks after its first unit, again and again until one
/// transfer is incomplete. Then completes one.
///
/// A single transfer may end before its observer runs.
fn stops_early(
    setup: Setup,
    mut interrupted: impl FnMut(&mut Bench, &File, &[CopyOp], &mut Arena),
) {
    const UNITS: u64 = 64;
    const UNIT_BYTES: u64 = 256 << 10;
    let bytes = noise((UNITS * UNIT_BYTES) as usize);
    let file = file_of(&bytes);
    let ops: Vec<_> = (0..UNITS)
        .map(|unit| copy(unit * UNIT_BYTES, UNIT_BYTES, unit * UNIT_BYTES, unit as u32))
        .collect();
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(bytes.len() as u64);
    let stopped = (0..50).any(|_| {
        dest.write(&vec![0; bytes.len()]);
        interrupted(&mut bench, &file, &ops, &mut dest);
        dest.content() != bytes
    });
    assert!(stopped, "every interrupted transfer went on to its end");
    assert!(bench.load(&file, Io::Read, &ops, bytes.len() as u64).unwrap() == bytes);
}

/// A cancelled call has its own error code, and the engine works again afterwards.
pub(crate) fn cancelling_stops_and_leaves_the_engine_usable(setup: Setup) {
    stops_early(setup, |bench, file, ops, dest| {
        let units = ops.len() as u32;
        let error = bench
            .run(file, Io::Read, ops, units, dest, &mut |_| ControlFlow::Break(()))
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::Cancelled);
    });
}

/// A panic in the observer continues with its payload after the engine has cleaned up.
pub(crate) fn observer_panics_cross_the_bridge_safely(setup: Setup) {
    stops_early(setup, |bench, file, ops, dest| {
        let units = ops.len() as u32;
        let payload = catch_unwind(AssertUnwindSafe(|| {
            bench.run(file, Io::Read, ops, units, dest, &mut |_| panic!("observer gave up"))
        }))
        .unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"observer gave up"));
    });
}

/// If a file is shorter than when its operations were checked, the error has its own code.
pub(crate) fn a_truncated_file_is_noticed(setup: Setup) {
    let file = file_of(&noise(100_000));
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(100_000);
    for io in IOS {
        file.set_len(100_000).unwrap();
        let sources = [SourceFile { file: file.as_fd(), bytes: 100_000 }.into()];
        file.set_len(60_000).unwrap();
        let error = bench
            .execute(
                Request {
                    sources: &sources,
                    io,
                    ops: &[copy(0, 100_000, 0, 0)],
                    units: 1,
                    digest: false,
                    timeline: false,
                },
                &mut dest,
                &mut |_| ControlFlow::Continue(()),
            )
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::FileTruncated, "{io:?}");
        assert!(error.context().contains("ended at byte 60000"), "{io:?}: {error}");
    }
}

/// If a descriptor cannot be read, the error is an I/O error with errno.
pub(crate) fn a_failing_read_carries_errno(setup: Setup) {
    let directory = File::open("/").unwrap();
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(16);
    let sources = [SourceFile { file: directory.as_fd(), bytes: 16 }.into()];
    let error = bench
        .execute(
            Request {
                sources: &sources,
                io: Io::Read,
                ops: &[copy(0, 16, 0, 0)],
                units: 1,
                digest: false,
                timeline: false,
            },
            &mut dest,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap_err();
    let eisdir = 21;
    assert_eq!((error.code(), error.status()), (ErrorCode::Io, eisdir));
}

/// Operations that would read or write outside their ranges are refused before anything moves.
pub(crate) fn bad_operations_are_refused(setup: Setup) {
    let file = file_of(&noise(4096));
    let q8_0 = decoder(8);
    let mut bench = Bench::new(setup, SMALL);
    let good = copy(0, 4096, 0, 0);
    let cases: &[(&str, Vec<CopyOp>)] = &[
        ("source end", vec![CopyOp { source_offset: 1, ..good }]),
        ("source wraps", vec![CopyOp { source_offset: u64::MAX, ..good }]),
        ("destination end", vec![CopyOp { dest_offset: 16, ..good }]),
        ("destination wraps", vec![CopyOp { dest_offset: u64::MAX - 15, ..good }]),
        (
            "destination alignment",
            vec![CopyOp { source_bytes: 8, dest_bytes: 8, dest_offset: 8, ..good }],
        ),
        ("file", vec![CopyOp { file: 1, ..good }]),
        ("unit", vec![CopyOp { unit: 1, ..good }]),
        ("sizes", vec![CopyOp { dest_bytes: 2048, ..good }]),
        ("half a block", vec![CopyOp { source_bytes: 33, ..decode(&q8_0, 0, 1, 0) }]),
        ("decoded size", vec![CopyOp { dest_bytes: 128, ..decode(&q8_0, 0, 1, 0) }]),
        ("unknown type", vec![CopyOp { conversion: Conversion::ToF16 { ggml_type: 4 }, ..good }]),
        (
            "the number that stands for no type",
            vec![CopyOp { conversion: Conversion::ToF16 { ggml_type: u32::MAX }, ..good }],
        ),
        ("half a float", vec![CopyOp { floats: Some(FloatFormat::F32), ..copy(0, 4094, 0, 0) }]),
        ("overlap", vec![copy(0, 64, 0, 0), copy(64, 64, 48, 0)]),
        ("lane", vec![CopyOp { lane: setup.lanes, ..good }]),
    ];
    let sources = [SourceFile { file: file.as_fd(), bytes: 4096 }.into()];
    for (name, ops) in cases {
        // The last operation is refused.
        let operation = ops.len() as u32;
        let ops = [&[copy(0, 0, 0, 0)], ops.as_slice()].concat();
        let mut dest = bench.arena(4096);
        let (io, units, digest, timeline) = (Io::Read, 1, true, false);
        let request = Request { sources: &sources, io, ops: &ops, units, digest, timeline };
        let error =
            bench.execute(request, &mut dest, &mut |_| ControlFlow::Continue(())).expect_err(name);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}: {error}");
        assert_eq!(error.operation(), Some(operation), "{name}: {error}");
        assert_eq!((error.source_file(), error.lane()), (None, None), "{name}: {error}");
    }
    assert_eq!(bench.load(&file, Io::Read, &[good], 4096).unwrap(), noise(4096));
}

/// Configurations outside the documented range are refused.
pub(crate) fn bad_configurations_are_refused(setup: Setup) {
    let device = Device::open(setup.device).unwrap();
    let devices = vec![&device; setup.lanes as usize];
    for config in [
        EngineConfig { readers: 0, ..SMALL },
        EngineConfig { readers: 257, depth: 1, ..SMALL },
        EngineConfig { storage_readers: 257, ..SMALL },
        EngineConfig { depth: 0, ..SMALL },
        EngineConfig { readers: 1, depth: 1025, ..SMALL },
        EngineConfig { chunk_bytes: (1 << 30) + 1, ..SMALL },
        EngineConfig { chunk_bytes: u64::MAX, ..SMALL },
    ] {
        let made = StagingRing::new(config).and_then(|ring| Engine::with_lanes(&devices, ring));
        assert_eq!(made.unwrap_err().code(), ErrorCode::InvalidArgument, "{config:?}");
    }
}

/// A request for more memory than any device has fails with its own code.
pub(crate) fn absurd_allocations_are_out_of_memory(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let error = device.allocate(1 << 52).unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
    assert!(device.allocate(1 << 20).is_ok());
}

/// The driver reports the device of a buffer, and ranges outside the buffer are refused.
pub(crate) fn buffers_report_their_device(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let memory = device.memory().unwrap().unwrap();
    assert!(memory.free > 0 && memory.free <= memory.total);
    let buffer = device.allocate(1000).unwrap();
    assert_eq!(buffer.address() % 256, 0);
    assert_eq!(buffer.device(), kind);
    let location = buffer.locate(999).unwrap();
    assert_eq!((location.device, location.address), (kind, buffer.address() + 999));
    for offset in [1000, u64::MAX] {
        assert_eq!(buffer.locate(offset).unwrap_err().code(), ErrorCode::InvalidArgument);
    }
    let error = buffer.read(1, &mut [0; 1000]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    buffer.read(1000, &mut []).unwrap();
}

/// Buffers and engines may be made on one thread, used on another and dropped on a third.
pub(crate) fn handles_move_between_threads(setup: Setup) {
    let bytes = noise(50_000);
    let file = file_of(&bytes);
    let mut bench = std::thread::spawn(move || Bench::new(setup, SMALL)).join().unwrap();
    let (bench, got) = std::thread::spawn(move || {
        let got = bench.load(&file, Io::Read, &[copy(0, 50_000, 0, 0)], 50_000).unwrap();
        (bench, got)
    })
    .join()
    .unwrap();
    assert_eq!(got, bytes);
    std::thread::spawn(move || drop(bench)).join().unwrap();
}

/// Several engines on one device do not disturb each other.
pub(crate) fn engines_run_side_by_side(setup: Setup) {
    let bytes = noise(500_000);
    let file = file_of(&bytes);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut bench = Bench::new(setup, SMALL);
                for _ in 0..3 {
                    let op = copy(0, 500_000, 0, 0);
                    assert_eq!(bench.load(&file, Io::Read, &[op], 500_000).unwrap(), bytes);
                }
            });
        }
    });
}

fn digest_by_definition(bytes: &[u8]) -> Digest {
    let (sum, mix) = digest_definition::by_definition(bytes, 0);
    Digest { sum, mix }
}

/// Digests of the read bytes and of the arrived bytes match the definition, for every length and every
/// division of the work.
pub(crate) fn digests_match_their_definition(setup: Setup) {
    for config in [SMALL, SHARED] {
        let mut bench = Bench::new(setup, config);
        for len in (0..200).chain([4095, 4096, 4097, 100_003]) {
            // With and without a common boundary of the operation's words and the file's pages.
            for lead in [0, 3, 8] {
                let bytes = noise(lead + len);
                let want = digest_by_definition(&bytes[lead..]);
                let file = file_of(&bytes);
                let mut dest = bench.arena(len as u64);
                let op = copy(lead as u64, len as u64, 0, 0);
                let stats = bench
                    .run(&file, Io::Auto, &[op], 1, &mut dest, &mut |_| ControlFlow::Continue(()))
                    .unwrap();
                let report = stats.operations[0];
                let what = format!("{len} bytes from byte {lead}, {config:?}");
                assert_eq!((report.source, report.device), (want, want), "{what}");
                let whole = 0..len as u64;
                assert_eq!(
                    dest.lanes[0].digests(std::slice::from_ref(&whole)).unwrap(),
                    [want],
                    "{what}"
                );
            }
        }
    }
}

/// Every bit of a buffer changes the digest of its range, and no other digest.
pub(crate) fn a_flipped_bit_changes_one_digest(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let mut buffer = device.allocate(1024).unwrap();
    let bytes = noise(1024);
    buffer.write(0, &bytes).unwrap();
    // More ranges than one launch accepts.
    let ranges: Vec<_> = (0..128).map(|index| index / 2 * 16..index / 2 * 16 + 16).collect();
    let before = buffer.digests(&ranges).unwrap();
    for bit in (0..8 * 1024).step_by(37) {
        let flipped = bytes[bit / 8] ^ 1 << (bit % 8);
        buffer.write(bit as u64 / 8, &[flipped]).unwrap();
        let after = buffer.digests(&ranges).unwrap();
        for (index, range) in ranges.iter().enumerate() {
            let hit = range.contains(&(bit as u64 / 8));
            assert_eq!(before[index] != after[index], hit, "bit {bit}, range {range:?}");
        }
        buffer.write(bit as u64 / 8, &[bytes[bit / 8]]).unwrap();
    }
    #[allow(clippy::reversed_empty_ranges, reason = "which is what is refused")]
    for range in [8..16, 1008..1040, 32..16] {
        let error = buffer.digests(&[range]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
}

/// Threads that share a buffer read, digest and locate it at once.
pub(crate) fn several_threads_can_use_one_buffer(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let bytes = noise(1 << 20);
    let mut buffer = device.allocate(1 << 20).unwrap();
    buffer.write(0, &bytes).unwrap();
    let want = [digest_by_definition(&bytes[..1 << 19]), digest_by_definition(&bytes[1 << 19..])];
    let ranges = [0..1 << 19, 1 << 19..1 << 20];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(buffer.digests(&ranges).unwrap(), want);
                    assert!(content(&buffer) == bytes);
                    assert_eq!(buffer.locate(0).unwrap().device, kind);
                }
            });
        }
    });
}

/// Infinities and NaNs are counted for each operation that gives halves, at every position.
pub(crate) fn infinities_and_nans_are_counted(setup: Setup) {
    let clean = [1.0_f32; 3000];
    let mut values = clean;
    for at in [0, 7, 1023, 1024, 2999] {
        values[at] = 65520.0;
    }
    values[1] = f32::NEG_INFINITY;
    values[2998] = f32::NAN;
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let halves: Vec<u8> = [f16::INFINITY, f16::ONE, f16::NAN, f16::MAX]
        .iter()
        .flat_map(|h| h.to_le_bytes())
        .collect();
    let file = file_of(&[bytes(&values), bytes(&clean), halves.clone(), halves].concat());
    let f32_type = decoder(F32);
    let ops = [
        decode(&f32_type, 0, 3000, 0),
        decode(&f32_type, 12_000, 3000, 6016),
        CopyOp { floats: Some(FloatFormat::F16), ..copy(24_000, 8, 12_032, 0) },
        copy(24_008, 8, 12_048, 0),
    ];
    for config in [SMALL, SHARED, LARGE] {
        let mut bench = Bench::new(setup, config);
        let mut dest = bench.arena(12_056);
        let stats = bench
            .run(&file, Io::Read, &ops, 1, &mut dest, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let counts: Vec<_> =
            stats.operations.iter().map(|report| (report.infinite, report.nan)).collect();
        assert_eq!(counts, [(6, 1), (0, 0), (1, 1), (0, 0)], "{config:?}");
    }
}

/// Infinities and NaNs of every format are counted in a copy, with both signs. The largest and the smallest
/// finite value are not counted.
pub(crate) fn floats_of_every_format_are_counted(setup: Setup) {
    // For each format: its size in bytes, and the bits of infinity without the sign.
    let formats: [(FloatFormat, usize, u64); 4] = [
        (FloatFormat::F16, 2, 0x7c00),
        (FloatFormat::BF16, 2, 0x7f80),
        (FloatFormat::F32, 4, 0x7f80_0000),
        (FloatFormat::F64, 8, 0x7ff0_0000_0000_0000),
    ];
    let mut source = Vec::new();
    let mut ops = Vec::new();
    let mut want = Vec::new();
    // In turn, so that no two neighbours have the same format.
    for count in [0, 1, 7, 9, 1024, 4097_u64] {
        for (format, bytes, infinity) in formats {
            let sign = 1 << (8 * bytes - 1);
            let of_interest = [
                infinity,
                infinity | sign,
                infinity + 1,
                sign | (sign - 1),
                infinity - 1,
                sign | (infinity - 1),
                sign,
                1,
            ];
            let (mut infinite, mut nan) = (0, 0);
            let start = source.len() as u64;
            for index in 0..count {
                let word = if index % 61 < 8 { of_interest[(index % 61) as usize] } else { 1 };
                infinite += u64::from(word & !sign == infinity);
                nan += u64::from(word & !sign > infinity);
                source.extend_from_slice(&word.to_le_bytes()[..bytes]);
            }
            let op = copy(start, count * bytes as u64, start, 0);
            ops.push(CopyOp { floats: Some(format), ..op });
            want.push((infinite, nan));
            source.resize(source.len().next_multiple_of(32), 0);
        }
    }
    let file = file_of(&source);
    for config in [SMALL, SHARED, LARGE] {
        let mut bench = Bench::new(setup, config);
        let mut dest = bench.arena(source.len() as u64);
        let stats = bench
            .run(&file, Io::Read, &ops, 1, &mut dest, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        for ((op, report), want) in ops.iter().zip(&stats.operations).zip(&want) {
            assert_eq!((report.infinite, report.nan), *want, "{op:?} {config:?}");
        }
    }
}

/// An operation is all zero if every byte of it is, whatever its neighbours are and however it is divided
/// and converted.
pub(crate) fn operations_of_zeros_alone_are_found(setup: Setup) {
    const BYTES: u64 = 100_000;
    let f32_type = decoder(F32);
    let zeros = |len: u64| vec![0_u8; len as usize];
    let with_one_at = |at: u64| {
        let mut bytes = zeros(BYTES);
        bytes[at as usize] = 1;
        bytes
    };
    let contents = [
        zeros(BYTES),
        with_one_at(0),
        with_one_at(BYTES / 2),
        with_one_at(BYTES - 1),
        zeros(BYTES),
        zeros(1),
        vec![0x80],
        zeros(7),
        zeros(0),
    ];
    let mut source = Vec::new();
    let mut ops = Vec::new();
    for content in &contents {
        // The bytes between operations are not zero.
        source.resize(source.len().next_multiple_of(32) + 32, 0xee);
        let (start, len) = (source.len() as u64, content.len() as u64);
        ops.push(copy(start, len, ops.len() as u64 * 2 * BYTES, 0));
        source.extend_from_slice(content);
    }
    ops[4] = decode(&f32_type, ops[4].source_offset, BYTES / 4, ops[4].dest_offset);
    let want = [true, false, false, false, true, true, false, true, false];
    let file = file_of(&source);
    for config in [SMALL, SHARED, LARGE] {
        for (io, digest) in IOS.into_iter().flat_map(|io| [(io, false), (io, true)]) {
            let mut bench = Bench::new(setup, config);
            let mut dest = bench.arena(ops.len() as u64 * 2 * BYTES);
            let file = SourceFile { file: file.as_fd(), bytes: source.len() as u64 };
            let request = Request {
                sources: &[file.into()],
                io,
                ops: &ops,
                units: 1,
                digest,
                timeline: false,
            };
            let stats =
                bench.execute(request, &mut dest, &mut |_| ControlFlow::Continue(())).unwrap();
            let found: Vec<_> = stats.operations.iter().map(|report| report.all_zero).collect();
            assert_eq!(found, want, "{config:?} {io:?} {digest}");
        }
    }
}

/// Every chunk is read and queued once. A GPU reports the times of its copy and its work for each chunk.
pub(crate) fn the_timeline_has_every_chunk(setup: Setup) {
    let file = file_of(&noise(100_000));
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(100_000);
    let stats = bench
        .run(&file, Io::Read, &[copy(0, 100_000, 0, 0)], 1, &mut dest, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    let chunks_of = |kind: SpanKind| {
        let mut chunks: Vec<_> =
            stats.timeline.iter().filter(|span| span.kind == kind).map(|span| span.chunk).collect();
        chunks.sort_unstable();
        chunks
    };
    let all: Vec<_> = (0..stats.chunks).collect();
    assert_eq!(chunks_of(SpanKind::Read), all);
    assert_eq!(chunks_of(SpanKind::Queue), all);
    let on_device = if setup.device == DeviceKind::Host { Vec::new() } else { all };
    assert_eq!(chunks_of(SpanKind::Copy), on_device);
    assert_eq!(chunks_of(SpanKind::Work), on_device);
    for span in &stats.timeline {
        assert!(span.start <= span.end && span.reader < SMALL.readers, "{span:?}");
    }
}

/// On host memory, one reader fills neighbouring chunks, one after the other. On a GPU, readers take single
/// chunks.
pub(crate) fn readers_take_stretches(setup: Setup) {
    let file = file_of(&noise(32 << 12));
    let mut bench = Bench::new(setup, EngineConfig { readers: 2, ..SMALL });
    let mut dest = bench.arena(32 << 12);
    let ops = [copy(0, 32 << 12, 0, 0)];
    let stats =
        bench.run(&file, Io::Read, &ops, 1, &mut dest, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(stats.chunks, 32);
    let mut reads: Vec<_> =
        stats.timeline.iter().filter(|span| span.kind == SpanKind::Read).collect();
    reads.sort_by_key(|span| span.chunk);
    // Four stretches for each of the two readers, on the host.
    let chunks = if setup.device == DeviceKind::Host { 4 } else { 1 };
    for stretch in reads.chunks(chunks) {
        assert!(stretch.iter().all(|span| span.reader == stretch[0].reader), "{stretch:?}");
        assert!(stretch.is_sorted_by_key(|span| span.start), "{stretch:?}");
    }
}

/// If the page cache does not hold all of a file, more readers run, if the engine has them.
pub(crate) fn storage_gets_more_readers(setup: Setup) {
    const BYTES: u64 = 8 << 20;
    let cached = file_of(&noise(BYTES as usize));
    // Pages that were never written are not in the page cache.
    let half_cached = file_of(&noise(BYTES as usize / 2));
    half_cached.set_len(BYTES).unwrap();
    let uncached = tempfile::tempfile().unwrap();
    uncached.set_len(BYTES).unwrap();
    for (readers, storage_readers) in [(2, 5), (3, 0)] {
        let config = EngineConfig { readers, storage_readers, chunk_bytes: 1 << 16, ..SHARED };
        let mut bench = Bench::new(setup, config);
        let mut dest = bench.arena(BYTES);
        for (io, file, storage) in [
            (Io::Auto, &cached, false),
            (Io::Auto, &half_cached, true),
            (Io::Auto, &uncached, true),
            (Io::Mapped, &cached, false),
            (Io::Read, &cached, false),
        ] {
            let ops = [copy(0, BYTES, 0, 0)];
            let stats = bench
                .run(file, io, &ops, 1, &mut dest, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            let want = if storage { readers.max(storage_readers) } else { readers };
            assert_eq!(stats.readers, want, "{config:?} {io:?}");
            assert!(stats.timeline.iter().all(|span| span.reader < want), "{config:?} {io:?}");
        }
    }
}
