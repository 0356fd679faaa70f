//! Lanes that hand bytes on to each other. The fake device does its work only when the engine waits for it.

use super::bench::{content, copy, file_of, noise};
use super::{LARGE, SHARED};
use cuda_sys::fake::FakeDevice;
use cuda_sys::{
    Conversion, CopyOp, Device, DeviceKind, Engine, EngineConfig, Error, ErrorCode, Io, Request,
    SourceFile, SpanKind, StagingRing, Stats,
};
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::fd::AsFd;

/// A matrix of 16 blocks of Q8_0 a row, which every lane gets.
struct Shared {
    file: File,
    bytes: Vec<u8>,
    converts: bool,
}

impl Shared {
    const ROW: u64 = 16;
    const ROWS: u64 = 3000;

    fn new(converts: bool) -> Self {
        let bytes = noise((Self::ROW * Self::ROWS * 34) as usize);
        Self { file: file_of(&bytes), bytes, converts }
    }

    fn op(&self, lane: u32, rows: Range<u64>) -> CopyOp {
        let blocks = (rows.end - rows.start) * Self::ROW;
        let op = CopyOp { lane, ..copy(rows.start * Self::ROW * 34, blocks * 34, 0, 0) };
        match self.converts {
            true => CopyOp {
                dest_bytes: blocks * 64,
                conversion: Conversion::ToF16 { ggml_type: 8 },
                ..op
            },
            false => op,
        }
    }

    fn all(&self, lanes: u32) -> Vec<CopyOp> {
        (0..lanes).map(|lane| self.op(lane, 0..Self::ROWS)).collect()
    }

    /// Executes operations, and returns the content of the destination of each.
    fn load(
        &self,
        engine: &mut Engine,
        devices: &[&Device],
        ops: &[CopyOp],
    ) -> Result<(Vec<Vec<u8>>, Stats), Error> {
        let size = ops.iter().map(|op| op.dest_bytes).max().unwrap();
        let mut buffers: Vec<_> =
            devices.iter().map(|device| device.allocate(size).unwrap()).collect();
        let sources =
            [SourceFile { file: self.file.as_fd(), bytes: self.bytes.len() as u64 }.into()];
        let request =
            Request { digest: true, timeline: true, ..Request::new(&sources, Io::Read, ops, 1) };
        let mut dests: Vec<_> = buffers.iter_mut().collect();
        let stats =
            engine.execute_lanes(request, &mut dests, &mut |_| ControlFlow::Continue(()))?;
        for report in &stats.operations {
            assert_eq!(report.source, report.device, "operation {}", report.operation);
        }
        Ok((buffers.iter().map(content).collect(), stats))
    }

    fn want(&self) -> Vec<u8> {
        let host = Device::open(DeviceKind::Host).unwrap();
        let mut engine = Engine::new(&host, StagingRing::new(LARGE).unwrap()).unwrap();
        self.load(&mut engine, &[&host], &self.all(1)).unwrap().0.remove(0)
    }
}

/// If devices can take bytes from each other, a byte that all of them need goes over one link, and every link carries
/// the same number of bytes. Otherwise each byte goes over the link of every device.
#[test]
fn links_share_the_bytes_that_all_lanes_need() {
    let peer = FakeDevice::with_peers("none", 1).unwrap();
    let alone = FakeDevice::failing_at("none", 1).unwrap();
    for (shared, lanes) in
        [true, false].map(Shared::new).iter().flat_map(|s| [2, 3].map(|l| (s, l)))
    {
        let (want, bytes) = (shared.want(), shared.bytes.len() as u64);
        for config in [SHARED, EngineConfig { depth: 1, ..SHARED }] {
            for (fake, copies) in [(&peer, 1), (&alone, u64::from(lanes))] {
                let devices = vec![fake.device(); lanes as usize];
                let ring = StagingRing::new(config).unwrap();
                let mut engine = Engine::with_lanes(&devices, ring).unwrap();
                let (got, stats) = shared.load(&mut engine, &devices, &shared.all(lanes)).unwrap();
                assert!(got.iter().all(|got| *got == want), "{lanes} lanes, {config:?}");
                assert_eq!(stats.link_bytes.iter().sum::<u64>(), copies * bytes);
                let most = stats.link_bytes.iter().max().unwrap();
                let least = stats.link_bytes.iter().min().unwrap();
                assert!(most - least <= config.chunk_bytes, "{:?}", stats.link_bytes);
            }
        }
    }
}

/// A helper carries half of the bytes of a lane that can take them, and none for a lane that cannot.
#[test]
fn a_helper_lends_its_link() {
    let peer = FakeDevice::with_peers("none", 1).unwrap();
    let alone = FakeDevice::failing_at("none", 1).unwrap();
    for shared in [true, false].map(Shared::new) {
        let (want, bytes) = (shared.want(), shared.bytes.len() as u64);
        let load = |fake: &FakeDevice| {
            let (devices, helpers) = ([fake.device()], [fake.device()]);
            let ring = StagingRing::new(SHARED).unwrap();
            let mut engine = Engine::with_helpers(&devices, &helpers, ring).unwrap();
            assert_eq!(engine.devices().len(), 2);
            let (got, stats) = shared.load(&mut engine, &devices, &shared.all(1)).unwrap();
            assert!(got[0] == want);
            assert_eq!(stats.link_bytes.iter().sum::<u64>(), bytes);
            stats.link_bytes[1]
        };
        assert!(load(&peer).abs_diff(bytes / 2) <= SHARED.chunk_bytes);
        assert_eq!(load(&alone), 0);
    }
}

/// Lanes of one device, of two devices, and helpers get the right bytes in every way that the devices allow.
pub(crate) fn lanes_hand_bytes_on(kinds: [DeviceKind; 2]) {
    let devices = kinds.map(|kind| Device::open(kind).unwrap());
    let devices: Vec<_> = devices.iter().collect();
    for shared in [true, false].map(Shared::new) {
        let (want, bytes) = (shared.want(), shared.bytes.len() as u64);
        for config in [SHARED, LARGE] {
            let ring = || StagingRing::new(config).unwrap();
            let mut engine = Engine::with_lanes(&devices, ring()).unwrap();
            let (got, stats) = shared.load(&mut engine, &devices, &shared.all(2)).unwrap();
            assert!(got.iter().all(|got| *got == want), "{kinds:?}, {config:?}");
            let carried: u64 = stats.link_bytes.iter().sum();
            assert!(carried == bytes || carried == 2 * bytes, "{:?}", stats.link_bytes);

            let (device, helper) = devices.split_at(1);
            let mut engine = Engine::with_helpers(device, helper, ring()).unwrap();
            let (got, stats) = shared.load(&mut engine, device, &shared.all(1)).unwrap();
            assert!(got[0] == want, "{kinds:?}, {config:?}");
            assert_eq!(stats.link_bytes.iter().sum::<u64>(), bytes);
        }
    }
}

/// Lanes with different bytes get chunks in turn, so that no link is idle.
#[test]
fn lanes_get_their_chunks_in_turn() {
    let fake = FakeDevice::failing_at("none", 1).unwrap();
    let devices = [fake.device(), fake.device()];
    let shared = Shared::new(false);
    // The second lane gets three times as much as the first.
    let quarter = Shared::ROWS / 4;
    let ops = [shared.op(0, 0..quarter), shared.op(1, quarter..Shared::ROWS)];
    let mut engine = Engine::with_lanes(&devices, StagingRing::new(SHARED).unwrap()).unwrap();
    let (_, stats) = shared.load(&mut engine, &devices, &ops).unwrap();
    let mut queued: Vec<_> =
        stats.timeline.iter().filter(|span| span.kind == SpanKind::Queue).collect();
    queued.sort_by_key(|span| span.chunk);
    let lanes: Vec<_> = queued.iter().map(|span| span.lane.unwrap()).collect();
    assert!(lanes.len() > 30, "{lanes:?}");
    for (end, window) in (8..).zip(lanes[..lanes.len() - 4].windows(8)) {
        let of_first = window.iter().filter(|lane| **lane == 0).count();
        assert!((1..=3).contains(&of_first), "chunks before {end}: {lanes:?}");
    }
}

/// If a call fails that hands bytes on, the error names the lane, nothing is left in flight on any lane, and the
/// engine works again afterwards.
#[test]
fn a_failure_between_lanes_is_reported() {
    let shared = Shared::new(true);
    let want = shared.want();
    for function in ["can_take_from", "carry", "take", "submit", "await", "finish"] {
        let mut failures = 0;
        for nth in 1.. {
            let what = format!("call {nth} of {function}");
            let fake = FakeDevice::with_peers(function, nth).unwrap();
            let devices = [fake.device(), fake.device()];
            let ring = StagingRing::new(SHARED).unwrap();
            let engine = Engine::with_lanes(&devices, ring);
            let mut check = |error: Error| {
                failures += 1;
                assert_eq!(error.code(), ErrorCode::DeviceFailure, "{what}: {error}");
                assert!(error.lane().is_some(), "{what}: {error}");
            };
            let mut engine = match engine {
                Ok(engine) => engine,
                Err(error) => {
                    check(error);
                    continue;
                }
            };
            match shared.load(&mut engine, &devices, &shared.all(2)) {
                Ok((got, _)) => assert!(got.iter().all(|got| *got == want), "{what}"),
                Err(error) => check(error),
            }
            if fake.calls() < nth {
                break;
            }
            let (got, _) = shared.load(&mut engine, &devices, &shared.all(2)).unwrap();
            assert!(got.iter().all(|got| *got == want), "after {what}");
        }
        // Every chunk is carried, so that none is submitted.
        assert_eq!(failures > 0, function != "submit", "{function}");
    }
}
