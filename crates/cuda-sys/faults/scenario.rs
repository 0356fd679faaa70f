//! The load in which each call is made to fail. It calls every library function that needs a device.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use cuda_sys::{
    Access, Columns, Conversion, CopyOp, Device, DeviceBuffer, DeviceKind, Engine, EngineConfig,
    Error, FloatFormat, HostIsa, Io, Request, SourceFile, StagingRing, Stats, cuda_devices,
    decode_to_f16, decoders,
};

use crate::calls::{self, Stage};

/// Chunks so small that every reader gets several of them in each pass over the files.
const CONFIG: EngineConfig = EngineConfig::new(2, 2, 16_384, 8192);

/// A ring so large that several threads populate it.
const LARGE_RING: EngineConfig = EngineConfig::new(1, 7, 2 << 20, 1 << 20);

/// Operations never read the first block of a file. A read there can only be the engine's probe whether direct
/// reads work.
const FIRST_OFFSET: usize = 4096;

const IOS: [Io; 4] = [Io::Read, Io::Mapped, Io::Direct, Io::Auto];

const Q8_0: u32 = 8;
const Q4_K: u32 = 12;

/// Two files, the operations on them, and the expected bytes on the devices.
pub(crate) struct Scenario {
    lanes: Vec<DeviceKind>,
    files: [File; 2],
    ops: Vec<CopyOp>,
    units: u32,
    want: Vec<u8>,
}

/// The properties of a successful load, apart from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// How files were really read, for each requested way.
    pub(crate) ios: Vec<Io>,
    pub(crate) pinned: bool,
}

impl Scenario {
    pub(crate) fn new(lanes: &[DeviceKind]) -> Self {
        let mut builder = Builder::default();
        // Longer than a chunk, and not a whole number of words.
        builder.copy(0, 40_013, 0, None);
        builder.decode(1, Q8_0, 600, 0);
        builder.decode(1, Q4_K, 100, 1);
        // Small operations that share a chunk, and floats of two formats that are counted.
        for _ in 0..5 {
            builder.copy(0, 70, 1, None);
        }
        builder.copy(1, 512, 2, Some(FloatFormat::F16));
        builder.copy(0, 9_000, 3, Some(FloatFormat::F32));
        for (op, lane) in builder.ops.iter_mut().zip((0..lanes.len() as u32).cycle()) {
            op.lane = lane;
        }
        builder.share(lanes.len() as u32, 400, 3);
        builder.columns(lanes.len() as u32, 48, 4);
        Self {
            lanes: lanes.to_vec(),
            files: builder.files.map(|bytes| file_of(&bytes)),
            units: builder.ops.iter().map(|op| op.unit + 1).max().unwrap_or(0),
            ops: builder.ops,
            want: builder.want,
        }
    }

    /// Opens the devices, loads in every way of reading, checks the result, and drops everything.
    ///
    /// Panics if a load reports success but left wrong bytes.
    pub(crate) fn run(&self) -> Result<Done, Error> {
        calls::enter_stage(Stage::Open);
        let devices = self.open_devices()?;

        calls::enter_stage(Stage::Ring);
        let large = StagingRing::new(LARGE_RING)?;
        let ring = StagingRing::new(CONFIG)?;
        calls::enter_stage(Stage::Drop);
        drop(large);

        calls::enter_stage(Stage::Engine);
        let mut engine = Engine::with_lanes(&devices.iter().collect::<Vec<_>>(), ring)?;
        let mut done = Done { ios: Vec::new(), pinned: false };
        for io in IOS {
            calls::enter_stage(Stage::Allocate);
            let mut buffers = devices
                .iter()
                .map(|device| device.allocate(self.want.len() as u64))
                .collect::<Result<Vec<_>, _>>()?;
            calls::enter_stage(Stage::Execute);
            let stats = self.execute(&mut engine, &mut buffers, io)?;
            done.ios.push(stats.io);
            done.pinned = stats.pinned;

            calls::enter_stage(Stage::ReadBack);
            for (lane, buffer) in buffers.iter().enumerate() {
                self.check_lane(lane, buffer, &stats, io)?;
            }
            calls::enter_stage(Stage::Drop);
        }
        for device in &devices {
            share_memory(device)?;
        }
        calls::enter_stage(Stage::Drop);
        Ok(done)
    }

    fn open_devices(&self) -> Result<Vec<Device>, Error> {
        if self.lanes.iter().any(|device| *device != DeviceKind::Host) {
            assert_ne!(cuda_devices()?.len(), 0, "there is a GPU");
        }
        let devices =
            self.lanes.iter().map(|device| Device::open(*device)).collect::<Result<Vec<_>, _>>()?;
        for device in &devices {
            let memory = device.memory()?;
            assert!(memory.is_none_or(|memory| memory.free <= memory.total), "{memory:?}");
        }
        Ok(devices)
    }

    /// Executes the operations, and checks progress and digests.
    fn execute(
        &self,
        engine: &mut Engine,
        buffers: &mut [DeviceBuffer],
        io: Io,
    ) -> Result<Stats, Error> {
        let mut dests: Vec<_> = buffers.iter_mut().collect();
        let sources = self.files.each_ref().map(|file| {
            let bytes = file.metadata().map_or(0, |metadata| metadata.len());
            SourceFile { file: file.as_fd(), bytes }.into()
        });
        let request = Request {
            sources: &sources,
            io,
            ops: &self.ops,
            units: self.units,
            digest: true,
            timeline: true,
        };
        let mut units_done = 0;
        let result = engine.execute_lanes(request, &mut dests, &mut |progress| {
            units_done = progress.units_done;
            ControlFlow::Continue(())
        });
        if result.is_err() {
            // A failed call must not affect the next one, which has other options and may fail as well.
            let plain = Request { digest: false, timeline: false, ..request };
            let _ = engine.execute_lanes(plain, &mut dests, &mut |_| ControlFlow::Continue(()));
        }
        let stats = result?;
        assert_eq!(units_done, self.units, "{io:?}: the last report is complete");
        for (op, report) in self.ops.iter().zip(&stats.operations) {
            assert_eq!(report.source, report.device, "{io:?}: {op:?}");
            assert_ne!(report.source.sum, 0, "{io:?}: {op:?} was digested");
        }
        Ok(stats)
    }

    /// Checks the bytes and the digests of a lane.
    fn check_lane(
        &self,
        lane: usize,
        buffer: &DeviceBuffer,
        stats: &Stats,
        io: Io,
    ) -> Result<(), Error> {
        let ops =
            || self.ops.iter().zip(&stats.operations).filter(|(op, _)| op.lane as usize == lane);
        let mut got = vec![0; self.want.len()];
        buffer.read(0, &mut got)?;
        for (op, _) in ops() {
            let range = op.dest_offset as usize..(op.dest_offset + op.dest_bytes) as usize;
            assert!(got[range.clone()] == self.want[range], "{io:?}: {op:?}: wrong bytes");
        }
        let copied = || ops().filter(|(op, _)| op.conversion == Conversion::Copy);
        let ranges: Vec<_> =
            copied().map(|(op, _)| op.dest_offset..op.dest_offset + op.dest_bytes).collect();
        let digests = buffer.digests(&ranges)?;
        for ((op, report), digest) in copied().zip(digests) {
            assert_eq!(report.device, digest, "{io:?}: {op:?}");
        }
        assert_eq!(buffer.locate(0)?.device, self.lanes[lane]);
        Ok(())
    }
}

/// Shares memory, and maps it as another process would.
fn share_memory(device: &Device) -> Result<(), Error> {
    const BYTES: u64 = 70_001;
    calls::enter_stage(Stage::Share);
    let mut buffer = device.allocate_shareable(4 * BYTES)?;
    buffer.resize(3 << 20)?;
    buffer.resize(BYTES)?;
    buffer.write(BYTES - 3, b"abc")?;
    buffer.protect()?;
    let shares = buffer.share()?;
    let views: Vec<_> = shares.iter().map(|of| (of.descriptor.as_fd(), of.bytes)).collect();
    let imported = device.import(&views, BYTES, Access::ReadOnly)?;
    let mut end = [0; 3];
    imported.read(BYTES - 3, &mut end)?;
    assert_eq!(&end, b"abc", "shared memory has the bytes of its owner");
    // The buffers are dropped at this stage.
    calls::enter_stage(Stage::Drop);
    Ok(())
}

#[derive(Default)]
struct Builder {
    files: [Vec<u8>; 2],
    ops: Vec<CopyOp>,
    want: Vec<u8>,
}

impl Builder {
    fn copy(&mut self, file: usize, bytes: usize, unit: u32, floats: Option<FloatFormat>) {
        let offset = self.append(file, bytes);
        let content = self.files[file][offset..].to_vec();
        self.push(file, offset, bytes, Conversion::Copy, unit, floats, &content);
    }

    fn decode(&mut self, file: usize, ggml_type: u32, blocks: usize, unit: u32) {
        let decoder = decoders()
            .into_iter()
            .find(|decoder| decoder.ggml_type == ggml_type)
            .unwrap_or_else(|| panic!("there is no decoder for ggml type {ggml_type}"));
        let bytes = blocks * decoder.block_bytes as usize;
        let offset = self.append(file, bytes);
        let mut halves = vec![0_u16; blocks * decoder.block_len as usize];
        decode_to_f16(ggml_type, &self.files[file][offset..], &mut halves, 1.0, HostIsa::Best)
            .unwrap();
        let content: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let floats = Some(FloatFormat::F16);
        self.push(file, offset, bytes, Conversion::ToF16 { ggml_type }, unit, floats, &content);
    }

    /// Adds blocks that every lane decodes.
    fn share(&mut self, lanes: u32, blocks: usize, unit: u32) {
        self.decode(0, Q8_0, blocks, unit);
        let op = self.ops[self.ops.len() - 1];
        let content = self.want[op.dest_offset as usize..].to_vec();
        for lane in 1..lanes {
            let dest_offset = self.reserve(&content);
            self.ops.push(CopyOp { lane, dest_offset, ..op });
        }
    }

    /// Adds a matrix whose rows have two blocks for each lane. Every lane gets 48 columns.
    fn columns(&mut self, lanes: u32, rows: usize, unit: u32) {
        const PIECE: u64 = 68;
        let row_bytes = PIECE * u64::from(lanes);
        let offset = self.append(0, rows * row_bytes as usize);
        let mut halves = vec![0_u16; rows * 64 * lanes as usize];
        decode_to_f16(Q8_0, &self.files[0][offset..], &mut halves, 1.0, HostIsa::Best).unwrap();
        for lane in 0..lanes {
            let kept = halves.chunks(64).skip(lane as usize).step_by(lanes as usize);
            let kept = kept.flat_map(|piece| &piece[8..56]);
            let content: Vec<u8> = kept.flat_map(|half| half.to_le_bytes()).collect();
            let bytes = rows * row_bytes as usize;
            let conversion = Conversion::ToF16 { ggml_type: Q8_0 };
            self.push(0, offset, bytes, conversion, unit, Some(FloatFormat::F16), &content);
            let begin = PIECE * u64::from(lane);
            let columns = Columns { row_bytes, begin, end: begin + PIECE, skip: 8, keep: 48 };
            let last = self.ops.len() - 1;
            self.ops[last] = CopyOp { lane, columns, ..self.ops[last] };
        }
    }

    /// Appends noise to a file. Returns the offset of its first byte.
    fn append(&mut self, file: usize, bytes: usize) -> usize {
        let content = &mut self.files[file];
        let start = content.len().next_multiple_of(32).max(FIRST_OFFSET);
        content.resize(start, 0xee);
        let mut state = (start + file + 1) as u64;
        content.extend((0..bytes).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }));
        start
    }

    /// Appends bytes that a lane must get. Returns their offset in its destination.
    fn reserve(&mut self, content: &[u8]) -> u64 {
        let dest = self.want.len().next_multiple_of(256);
        self.want.resize(dest, 0);
        self.want.extend_from_slice(content);
        dest as u64
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of an operation")]
    fn push(
        &mut self,
        file: usize,
        source_offset: usize,
        source_bytes: usize,
        conversion: Conversion,
        unit: u32,
        floats: Option<FloatFormat>,
        content: &[u8],
    ) {
        let dest_offset = self.reserve(content);
        self.ops.push(CopyOp {
            source: file as u32,
            lane: 0,
            source_offset: source_offset as u64,
            source_bytes: source_bytes as u64,
            dest_offset,
            dest_bytes: content.len() as u64,
            conversion,
            unit,
            floats,
            columns: Columns::ALL,
        });
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    // A direct read would have to write unsaved bytes to the disk first.
    file.sync_all().unwrap();
    file
}
