//! Lanes to a device that does its work only when it is waited for, and whose calls can fail.

use super::bench::{Arena, Bench, owners};
use super::lanes::Model;
use super::{LARGE, SHARED, SMALL, Setup};
use cuda_sys::fake::FakeDevice;
use cuda_sys::{
    Device, DeviceKind, Engine, EngineConfig, Error, ErrorCode, Io, Request, SourceFile,
    StagingRing,
};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

/// The device of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Real,
    Fake,
}

const LANES: [&[Lane]; 4] = [
    &[Lane::Fake],
    &[Lane::Real, Lane::Fake],
    &[Lane::Fake, Lane::Real],
    &[Lane::Fake, Lane::Fake],
];

struct Loaded {
    content: Vec<u8>,
    infinite: Vec<u64>,
}

fn engine(
    lanes: &[Lane],
    real: &Device,
    fake: &FakeDevice,
    config: EngineConfig,
) -> Result<Engine, Error> {
    let devices: Vec<_> = devices(lanes, real, fake).collect();
    Engine::with_lanes(&devices, StagingRing::new(config).unwrap())
}

fn devices<'a>(
    lanes: &'a [Lane],
    real: &'a Device,
    fake: &'a FakeDevice,
) -> impl Iterator<Item = &'a Device> {
    lanes.iter().map(move |lane| if *lane == Lane::Real { real } else { fake.device() })
}

/// Loads the model. Its operations go to the lanes in turn.
fn load<'a>(
    engine: &mut Engine,
    model: &Model,
    devices: impl Iterator<Item = &'a Device>,
) -> Result<Loaded, Error> {
    let mut arena = Arena {
        lanes: devices.map(|device| device.allocate(model.dest_bytes).unwrap()).collect(),
        owners: Vec::new(),
    };
    arena.write(&vec![0xcc; model.dest_bytes as usize]);
    let lanes = arena.lanes.len() as u32;
    let ops = model.on(|index| index % lanes);
    let sources = [SourceFile { file: model.file.as_fd(), bytes: model.bytes }.into()];
    let (io, units, digest, timeline) = (Io::Read, model.units, true, true);
    let request = Request { sources: &sources, io, ops: &ops, units, digest, timeline };
    arena.owners = owners(&ops);
    let mut dests: Vec<_> = arena.lanes.iter_mut().collect();
    let stats = engine.execute_lanes(request, &mut dests, &mut |_| ControlFlow::Continue(()))?;
    for (op, report) in ops.iter().zip(&stats.operations) {
        assert_eq!(report.source, report.device, "{op:?}");
    }
    let infinite = stats.operations.iter().map(|report| report.infinite).collect();
    Ok(Loaded { content: arena.content(), infinite })
}

fn reference(kind: DeviceKind, model: &Model) -> Loaded {
    let mut one = Bench::new(Setup::plain(kind, 1), LARGE);
    load(&mut one.engine, model, std::iter::once(&one.device)).unwrap()
}

/// A slot is reused only after the slowest lane has finished with it.
pub(crate) fn slow_lanes_get_their_bytes(kind: DeviceKind) {
    let model = Model::new();
    let want = reference(kind, &model);
    let real = Device::open(kind).unwrap();
    let fake = FakeDevice::failing_at("none", 1).unwrap();
    for config in [SMALL, SHARED, LARGE, EngineConfig { depth: 1, ..SMALL }] {
        for lanes in LANES {
            let mut engine = engine(lanes, &real, &fake, config).unwrap();
            for _ in 0..3 {
                let got = load(&mut engine, &model, devices(lanes, &real, &fake)).unwrap();
                assert!(got.content == want.content, "{lanes:?}, {config:?}");
                assert_eq!(got.infinite, want.infinite, "{lanes:?}, {config:?}");
            }
        }
    }
}

/// The status of every failure of the fake device.
const FAKE_STATUS: i32 = 719;

/// Functions of a device and its queue that can fail.
const FUNCTIONS: [&str; 13] = [
    "append_spans",
    "await",
    "bind_thread",
    "count_floats",
    "finish",
    "load_code",
    "make_queue",
    "open_tallies",
    "pin",
    "prepare_conversions",
    "read_tallies",
    "start_timeline",
    "submit",
];

/// If a call of a lane's device fails, the error names the lane, nothing is left in flight on any lane, and
/// the engine works again afterwards.
pub(crate) fn a_lane_whose_device_fails_is_named(kind: DeviceKind) {
    let model = Model::new();
    let want = reference(kind, &model);
    let real = Device::open(kind).unwrap();
    let config = EngineConfig { chunk_bytes: 16_384, ..SHARED };
    for (lanes, function) in LANES[..3].iter().flat_map(|l| FUNCTIONS.map(|f| (*l, f))) {
        let at = lanes.iter().position(|lane| *lane == Lane::Fake).unwrap();
        let mut failures = 0;
        for nth in 1.. {
            let what = format!("{lanes:?}, call {nth} of {function}");
            let fake = FakeDevice::failing_at(function, nth).unwrap();
            let mut check = |error: Error| {
                failures += 1;
                let (code, status) = (error.code(), error.status());
                assert_eq!(
                    (code, status),
                    (ErrorCode::DeviceFailure, FAKE_STATUS),
                    "{what}: {error}"
                );
                assert_eq!(error.lane(), Some(at as u32), "{what}: {error}");
                assert_eq!(error.source_file(), None, "{what}: {error}");
                let of_operation = ["submit", "await", "count_floats"].contains(&function);
                assert!(error.operation().is_some() || !of_operation, "{what}: {error}");
                let lane =
                    if lanes.len() > 1 { format!("lane {at} (host): ") } else { String::new() };
                assert_eq!(error.context(), format!("{lane}the fake device fails in {function}"));
            };
            let mut engine = match engine(lanes, &real, &fake, config) {
                Ok(engine) => engine,
                Err(error) => {
                    check(error);
                    continue;
                }
            };
            match load(&mut engine, &model, devices(lanes, &real, &fake)) {
                Ok(got) => assert!(got.content == want.content, "{what}"),
                Err(error) => check(error),
            }
            if fake.calls() < nth {
                break;
            }
            let got = load(&mut engine, &model, devices(lanes, &real, &fake)).unwrap();
            assert!(got.content == want.content, "after {what}");
        }
        // If bind_thread() fails when a thread starts, the thread calls it again before its first read. Thus
        // the failure may not be reported.
        assert!(failures > 0 || function == "bind_thread", "{lanes:?}: {function} never failed");
    }
}
