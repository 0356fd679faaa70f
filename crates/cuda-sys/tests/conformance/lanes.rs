//! Several lanes: the bytes of each, and the lane in errors.

use super::bench::{Arena, Bench, content, copy, decode, decoder, file_of, noise};
use super::{IOS, LARGE, SHARED, SMALL, Setup};
use cuda_sys::{
    CopyOp, Device, EngineConfig, ErrorCode, FloatFormat, Io, OpReport, Progress, Request,
    SourceFile, SpanKind, Stats,
};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

const UNTOUCHED: u8 = 0xcc;
const Q8_0: u32 = 8;
const F32: u32 = 0;

/// One report of progress: complete units, bytes, and bytes of each lane.
type Seen = (u32, u64, Vec<u64>);

/// A file, and operations of every kind on it: long and short ones, copies and conversions, only zeros,
/// with infinities, and with padding between them. Each unit has several operations.
pub(super) struct Model {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) ops: Vec<CopyOp>,
    pub(super) units: u32,
    pub(super) dest_bytes: u64,
}

impl Model {
    pub(super) fn new() -> Self {
        let (q8_0, f32_type) = (decoder(Q8_0), decoder(F32));
        let mut source = Vec::new();
        let mut ops: Vec<CopyOp> = Vec::new();
        let mut dest_bytes = 0_u64;
        for index in 0..60_usize {
            source.resize(source.len().next_multiple_of(32), 0xee);
            let start = source.len() as u64;
            let op = match index % 6 {
                0 => copy(start, 9_000 + 7 * index as u64, dest_bytes, 0),
                1 => decode(&q8_0, start, 40 + index as u64, dest_bytes),
                2 => copy(start, 3, dest_bytes, 0),
                3 => decode(&f32_type, start, 33, dest_bytes),
                4 => CopyOp { floats: Some(FloatFormat::F32), ..copy(start, 256, dest_bytes, 0) },
                _ => copy(start, 64, dest_bytes, 0),
            };
            let bytes = op.source_bytes as usize;
            match index % 6 {
                3 | 4 => {
                    let words = [f32::INFINITY, 1.0, f32::NAN, 65520.0, -0.0];
                    let words = words.into_iter().cycle().skip(index).flat_map(f32::to_le_bytes);
                    source.extend(words.take(bytes));
                }
                5 => source.resize(source.len() + bytes, 0),
                _ => source.extend(noise(bytes)),
            }
            // Some are neighbours at the destination, too.
            dest_bytes = (dest_bytes + op.dest_bytes).next_multiple_of(if index % 3 == 0 {
                256
            } else {
                16
            });
            ops.push(CopyOp { unit: index as u32 / 7, ..op });
        }
        let units = ops.iter().map(|op| op.unit + 1).max().unwrap();
        Self { file: file_of(&source), bytes: source.len() as u64, ops, units, dest_bytes }
    }

    /// Returns the operations on the lanes that `lane_of` gives.
    pub(super) fn on(&self, lane_of: impl Fn(u32) -> u32) -> Vec<CopyOp> {
        (0..).zip(&self.ops).map(|(index, op)| CopyOp { lane: lane_of(index), ..*op }).collect()
    }

    pub(super) fn run(
        &self,
        bench: &mut Bench,
        io: Io,
        ops: &[CopyOp],
    ) -> (Arena, Stats, Vec<Seen>) {
        let mut arena = bench.arena(self.dest_bytes);
        arena.write(&vec![UNTOUCHED; self.dest_bytes as usize]);
        let sources = [SourceFile { file: self.file.as_fd(), bytes: self.bytes }.into()];
        let (units, digest, timeline) = (self.units, true, true);
        let request = Request { sources: &sources, io, ops, units, digest, timeline };
        let mut seen = Vec::new();
        let stats = bench
            .execute(request, &mut arena, &mut |progress| {
                seen.push((progress.units_done, progress.bytes_done, progress.lane_bytes.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        (arena, stats, seen)
    }
}

/// For every assignment of operations to lanes, the destinations together hold the bytes that a single lane
/// gets, and the reports are the same. No lane gets bytes of another.
pub(crate) fn several_lanes_get_the_bytes_of_one(setup: Setup) {
    let model = Model::new();
    let mut one = Bench::new(Setup { lanes: 1, ..setup }, SHARED);
    let (arena, want, _) = model.run(&mut one, Io::Read, &model.ops);
    let want_content = arena.content();
    let findings = |report: &OpReport| {
        (report.infinite, report.nan, report.all_zero, report.source, report.device)
    };
    let lanes = setup.lanes;
    let divisions: [(&str, &dyn Fn(u32) -> u32); 4] = [
        ("in turn", &|index| index % lanes),
        ("in halves", &|index| index * lanes / 60),
        ("backwards", &|index| lanes - 1 - index % lanes),
        ("all on the last", &|_| lanes - 1),
    ];
    for config in [SMALL, SHARED, LARGE, EngineConfig { depth: 1, ..SHARED }] {
        let mut bench = Bench::new(setup, config);
        for ((name, lane_of), io) in divisions.iter().flat_map(|d| IOS.map(|io| (d, io))) {
            let what = format!("{name}, {io:?}, {config:?}");
            let ops = model.on(lane_of);
            let (arena, stats, seen) = model.run(&mut bench, io, &ops);
            assert!(arena.content() == want_content, "{what}");
            for (lane, buffer) in arena.lanes.iter().enumerate() {
                let mut rest = content(buffer);
                for (_, range) in arena.owners.iter().filter(|(owner, _)| *owner == lane) {
                    rest[range.clone()].fill(UNTOUCHED);
                }
                assert!(rest.iter().all(|byte| *byte == UNTOUCHED), "lane {lane}: {what}");
            }
            for (index, (report, want)) in stats.operations.iter().zip(&want.operations).enumerate()
            {
                assert_eq!(findings(report), findings(want), "operation {index}: {what}");
                assert_eq!(report.operation as usize, index, "{what}");
                assert_eq!(report.lane, ops[index].lane, "operation {index}: {what}");
            }
            assert_eq!(stats.source_bytes, want.source_bytes, "{what}");
            assert!(seen.is_sorted_by_key(|(units, ..)| *units), "{what}");
            assert!(seen.is_sorted_by_key(|(_, bytes, _)| *bytes), "{what}");
            let of_lane = |lane| ops.iter().filter(move |op| op.lane == lane);
            let bytes_of = |lane| of_lane(lane).map(|op| op.source_bytes).sum();
            let last = (model.units, want.source_bytes, (0..lanes).map(bytes_of).collect());
            assert_eq!(seen.last(), Some(&last), "{what}");
            for span in &stats.timeline {
                let of_lane =
                    matches!(span.kind, SpanKind::Queue | SpanKind::Copy | SpanKind::Work);
                assert_eq!(span.lane.is_some(), of_lane, "{span:?}: {what}");
                assert!(span.lane.is_none_or(|lane| lane < lanes), "{span:?}: {what}");
            }
        }
    }
}

/// With one slot, chunks of all lanes pass through it in turn.
pub(crate) fn a_slot_waits_for_every_lane(setup: Setup) {
    let bytes = noise(1 << 20);
    let file = file_of(&bytes);
    let mut bench = Bench::new(setup, EngineConfig { readers: 8, depth: 1, ..SMALL });
    // Each chunk of 4096 bytes begins with one lane and ends with the next.
    let ops: Vec<_> = (0..512_u64).map(|index| copy(2048 * index, 2048, 2048 * index, 0)).collect();
    let mut arena = bench.arena(1 << 20);
    for _ in 0..5 {
        arena.write(&vec![0; 1 << 20]);
        let stats = bench
            .run(&file, Io::Read, &ops, 1, &mut arena, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(stats.chunks, 256, "a chunk holds bytes of several lanes");
        assert!(arena.content() == bytes);
    }
}

/// A call needs one destination for each lane, large enough for the lane's operations.
pub(crate) fn destinations_must_match_the_lanes(setup: Setup) {
    let file = file_of(&noise(4096));
    let sources = [SourceFile { file: file.as_fd(), bytes: 4096 }.into()];
    let device = Device::open(setup.device).unwrap();
    let mut bench = Bench::new(setup, SMALL);
    assert_eq!(bench.engine.devices(), vec![setup.device; setup.lanes as usize]);
    assert_eq!(bench.engine.conversion_bytes(setup.lanes), 0);

    let last = setup.lanes - 1;
    let ops = [CopyOp { lane: last, ..copy(0, 4096, 0, 0) }];
    let request = Request { digest: true, ..Request::new(&sources, Io::Read, &ops, 1) };
    let observe = &mut |_: Progress<'_>| ControlFlow::Continue(());
    for count in (0..setup.lanes + 3).filter(|count| *count != setup.lanes) {
        let mut buffers: Vec<_> = (0..count).map(|_| device.allocate(4096).unwrap()).collect();
        let mut dests: Vec<_> = buffers.iter_mut().collect();
        let error = bench.engine.execute_lanes(request, &mut dests, observe).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{count}: {error}");
    }
    // All others are large enough.
    let mut buffers: Vec<_> = (0..setup.lanes)
        .map(|lane| device.allocate(if lane == last { 4095 } else { 8192 }).unwrap())
        .collect();
    let mut dests: Vec<_> = buffers.iter_mut().collect();
    let error = bench.engine.execute_lanes(request, &mut dests, observe).unwrap_err();
    assert_eq!((error.code(), error.operation()), (ErrorCode::InvalidArgument, Some(0)), "{error}");
    let error =
        cuda_sys::Engine::with_lanes(&[], cuda_sys::StagingRing::new(SMALL).unwrap()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
}
