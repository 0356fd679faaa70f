//! Columns of matrices, and bytes that several lanes need.

use super::bench::{Arena, Bench, content, copy, decoder, file_of, noise};
use super::{IOS, LARGE, Setup};
use cuda_sys::{
    Columns, Conversion, CopyOp, DeviceKind, EngineConfig, ErrorCode, HostIsa, Io, PositionedRead,
    ReadHints, Request, Source, SourceFile, Stats, Stop, decode_to_f16, least_chunk_bytes,
};
use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};
use std::io::{self, IoSliceMut};
use std::ops::{ControlFlow, Range};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

const ROWS: u64 = 37;
/// Columns are cut at multiples of this number of elements.
const STEP: u64 = 32;

/// A matrix in a file.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    ggml_type: u32,
    converts: bool,
    /// Blocks of a row.
    blocks: u64,
    start: u64,
}

impl Matrix {
    fn block_len(self) -> u64 {
        decoder(self.ggml_type).block_len.into()
    }

    fn block_bytes(self) -> u64 {
        decoder(self.ggml_type).block_bytes.into()
    }

    fn row_bytes(self) -> u64 {
        self.blocks * self.block_bytes()
    }

    fn bytes(self) -> u64 {
        ROWS * self.row_bytes()
    }

    fn conversion(self) -> Conversion {
        match self.converts {
            true => Conversion::ToF16 { ggml_type: self.ggml_type },
            false => Conversion::Copy,
        }
    }

    /// Returns the columns that each of `lanes` lanes gets, unevenly: in blocks if they are copied, and otherwise
    /// in steps of 32 elements. The last lane also gets the elements after the last step.
    fn shares(self, lanes: u64) -> Vec<Range<u64>> {
        let unit = if self.converts { STEP } else { self.block_len().max(STEP) };
        let all = self.blocks * self.block_len();
        let at = |lane: u64| match lane == lanes {
            true => all,
            false => all / unit * lane * lane / lanes / lanes * unit,
        };
        (0..lanes).map(|lane| at(lane)..at(lane + 1)).collect()
    }

    /// Returns the operation that moves some columns.
    fn op(self, lane: u32, cols: &Range<u64>, dest_offset: u64, unit: u32) -> CopyOp {
        let (len, bytes) = (self.block_len(), self.block_bytes());
        let first = cols.start / len;
        let keep = cols.end - cols.start;
        let columns = Columns {
            row_bytes: self.row_bytes(),
            begin: first * bytes,
            end: cols.end.div_ceil(len) * bytes,
            skip: if self.converts { (cols.start - first * len) as u32 } else { 0 },
            keep: if self.converts { keep as u32 } else { 0 },
        };
        let row = if self.converts { keep * 2 } else { columns.end - columns.begin };
        CopyOp {
            lane,
            dest_bytes: ROWS * row,
            conversion: self.conversion(),
            columns,
            ..copy(self.start, self.bytes(), dest_offset, unit)
        }
    }

    /// Returns the bytes that such an operation must write.
    fn want(self, file: &[u8], cols: &Range<u64>) -> Vec<u8> {
        let all = &file[self.start as usize..][..self.bytes() as usize];
        let (len, bytes) = (self.block_len(), self.block_bytes());
        if !self.converts {
            let piece = (cols.start / len * bytes) as usize..(cols.end / len * bytes) as usize;
            let rows = all.chunks(self.row_bytes() as usize);
            return rows.flat_map(|row| row[piece.clone()].to_vec()).collect();
        }
        let mut halves = vec![0; (ROWS * self.blocks * len) as usize];
        decode_to_f16(self.ggml_type, all, &mut halves, 1.0, HostIsa::Best).unwrap();
        let rows = halves.chunks((self.blocks * len) as usize);
        let kept = rows.flat_map(|row| &row[cols.start as usize..cols.end as usize]);
        kept.flat_map(|half| half.to_le_bytes()).collect()
    }
}

/// Matrices of types with blocks of 1, 32, 64 and 256 elements, whose blocks have odd, even and aligned sizes.
fn matrices() -> Vec<Matrix> {
    const F32: u32 = 0;
    const F16: u32 = 1;
    const Q4_0: u32 = 2;
    const Q8_0: u32 = 8;
    const Q4_K: u32 = 12;
    const Q6_K: u32 = 14;
    const BF16: u32 = 30;
    const MXFP4: u32 = 39;
    const NVFP4: u32 = 40;
    let mut start = 0;
    let types = [
        (F32, 413),
        (F16, 227),
        (BF16, 35),
        (Q4_0, 7),
        (Q8_0, 5),
        (Q4_K, 3),
        (Q6_K, 2),
        (MXFP4, 9),
        (NVFP4, 3),
    ];
    let cases = [true, false].into_iter().flat_map(|c| types.map(|t| (c, t)));
    cases
        .map(|(converts, (ggml_type, blocks))| {
            let matrix = Matrix { ggml_type, converts, blocks, start };
            start = (start + matrix.bytes()).next_multiple_of(32);
            matrix
        })
        .collect()
}

/// Returns a destination of this size on each lane.
fn arena(bench: &Bench, bytes: u64) -> Arena {
    let mut arena = bench.arena(bytes);
    arena.write(&vec![0xcc; bytes as usize]);
    arena
}

fn run(bench: &mut Bench, source: Source<'_>, io: Io, ops: &[CopyOp], arena: &mut Arena) -> Stats {
    let units = ops.iter().map(|op| op.unit + 1).max().unwrap();
    let sources = [source];
    let request = Request { digest: true, ..Request::new(&sources, io, ops, units) };
    let mut last = None;
    let stats = bench
        .execute(request, arena, &mut |progress| {
            last = Some((progress.units_done, progress.bytes_done));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(last, Some((units, stats.source_bytes)));
    for (op, report) in ops.iter().zip(&stats.operations) {
        assert_eq!(report.source, report.device, "{op:?}");
        assert!(!report.all_zero, "{op:?}");
    }
    stats
}

/// Every lane gets its columns of every matrix, also if they begin or end inside a block. The file is read once.
pub(crate) fn columns_reach_their_lanes(device: DeviceKind) {
    const CHUNKS: EngineConfig = EngineConfig::new(5, 3, 40_000, 9000);
    let matrices = matrices();
    let last = matrices[matrices.len() - 1];
    // A vector after the last matrix: its chunk is not gathered.
    let vector = copy(last.start + last.bytes(), 100, 0, 3);
    let bytes = noise((vector.source_offset + vector.source_bytes) as usize);
    let file = file_of(&bytes);
    for lanes in 1..5 {
        let mut ops = Vec::new();
        let mut wanted = vec![Vec::new(); lanes as usize];
        for (index, matrix) in matrices.iter().enumerate() {
            for (lane, cols) in (0..).zip(matrix.shares(lanes)).filter(|(_, cols)| !cols.is_empty())
            {
                let want: &mut Vec<u8> = &mut wanted[lane as usize];
                want.resize(want.len().next_multiple_of(16), 0xcc);
                ops.push(matrix.op(lane, &cols, want.len() as u64, index as u32 / 7));
                want.extend(matrix.want(&bytes, &cols));
            }
        }
        let dest_offset = wanted[0].len().next_multiple_of(16);
        wanted[0].resize(dest_offset, 0xcc);
        ops.push(CopyOp { dest_offset: dest_offset as u64, ..vector });
        wanted[0].extend(&bytes[vector.source_offset as usize..]);

        let size = wanted.iter().map(Vec::len).max().unwrap() as u64;
        let least = EngineConfig { chunk_bytes: least_chunk_bytes(&ops), ..CHUNKS };
        for (io, config) in IOS.into_iter().flat_map(|io| [least, CHUNKS, LARGE].map(|c| (io, c))) {
            let mut bench = Bench::new(Setup::plain(device, lanes as u32), config);
            let mut arena = arena(&bench, size);
            let source = SourceFile { file: file.as_fd(), bytes: bytes.len() as u64 };
            let stats = run(&mut bench, source.into(), io, &ops, &mut arena);
            let needed: u64 = matrices.iter().map(|matrix| matrix.bytes()).sum();
            assert_eq!(stats.source_bytes, needed + vector.source_bytes, "{lanes} lanes, {io:?}");
            for (lane, want) in wanted.iter().enumerate() {
                let got = content(&arena.lanes[lane]);
                let differs = got.iter().zip(want).position(|(got, want)| got != want);
                assert_eq!(differs, None, "lane {lane} of {lanes}, {io:?}, {config:?}");
                assert!(got[want.len()..].iter().all(|&byte| byte == 0xcc), "lane {lane}");
            }
        }
    }
}

/// Columns of a file that is not in the page cache are read past it, although reads from the cache could scatter.
pub(crate) fn cold_columns_stay_out_of_the_page_cache(device: DeviceKind) {
    const ROW: u64 = 16_384;
    const BYTES: u64 = 2048 * ROW;
    let named = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(named.path(), noise(BYTES as usize)).unwrap();
    let (file, looked_at) = (named.as_file(), named.reopen().unwrap());
    file.sync_all().unwrap();
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
    // Without read-ahead, looking for a page can bring only that page into the cache.
    fadvise(&looked_at, 0, None, Advice::Random).unwrap();
    let is_cached = |offset: &u64| {
        let mut byte = [0];
        let places = &mut [IoSliceMut::new(&mut byte)];
        preadv2(&looked_at, places, *offset, ReadWriteFlags::NOWAIT).is_ok_and(|read| read > 0)
    };
    if is_cached(&(BYTES - 4096)) {
        // The file is in memory, or its file system does not support such reads.
        return;
    }
    let half = |lane: u32| CopyOp {
        lane,
        dest_bytes: BYTES / 2,
        columns: Columns {
            row_bytes: ROW,
            begin: u64::from(lane) * ROW / 2,
            end: u64::from(lane + 1) * ROW / 2,
            skip: 0,
            keep: 0,
        },
        ..copy(0, BYTES, 0, 0)
    };
    let mut bench = Bench::new(Setup::plain(device, 2), LARGE);
    let mut arena = bench.arena(BYTES / 2);
    let sources = [SourceFile { file: file.as_fd(), bytes: BYTES }.into()];
    let ops = [half(0), half(1)];
    let request = Request::new(&sources, Io::Auto, &ops, 1);
    let stats = bench.execute(request, &mut arena, &mut |_| ControlFlow::Continue(())).unwrap();
    if stats.io != Io::Auto {
        // This file system refuses O_DIRECT.
        return;
    }
    let cached = (0..BYTES).step_by(4 * ROW as usize).filter(is_cached).count();
    assert_eq!(cached, 0, "places in the page cache");
}

/// Counts the bytes that are read.
struct Counting {
    bytes: Vec<u8>,
    read: AtomicU64,
}

impl PositionedRead for Counting {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn hints(&self) -> ReadHints {
        ReadHints::default()
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64, _: Stop<'_>) -> io::Result<()> {
        self.read.fetch_add(out.len() as u64, Ordering::Relaxed);
        out.copy_from_slice(&self.bytes[offset as usize..][..out.len()]);
        Ok(())
    }
}

/// Returns the operation that moves some rows of 16 blocks of Q8_0 to a lane.
fn rows(converts: bool, lane: u32, rows: Range<u64>) -> CopyOp {
    const ROW: u64 = 16;
    let blocks = (rows.end - rows.start) * ROW;
    let op = copy(rows.start * ROW * 34, blocks * 34, 0, 0);
    match converts {
        true => CopyOp {
            lane,
            dest_bytes: blocks * 64,
            conversion: Conversion::ToF16 { ggml_type: 8 },
            ..op
        },
        false => CopyOp { lane, ..op },
    }
}

/// Rows that several lanes need are read once, whether the lanes need all the same rows or only some of them.
pub(crate) fn shared_rows_are_read_once(device: DeviceKind) {
    const ALL: u64 = 500;
    let divisions: [&[Range<u64>]; 4] = [
        &[0..ALL, 0..ALL],
        &[0..ALL, 0..ALL, 0..ALL],
        &[0..300, 100..ALL],
        &[0..300, 100..200, 150..ALL],
    ];
    let bytes = noise((ALL * 16 * 34) as usize);
    for (division, converts) in divisions.iter().flat_map(|d| [true, false].map(|c| (*d, c))) {
        let ops: Vec<_> =
            (0..).zip(division).map(|(lane, range)| rows(converts, lane, range.clone())).collect();
        let setup = Setup::plain(device, ops.len() as u32);
        let one = |op: &CopyOp| {
            let mut bench = Bench::new(Setup::plain(device, 1), LARGE);
            let source = Counting { bytes: bytes.clone(), read: AtomicU64::new(0) };
            let mut arena = arena(&bench, op.dest_bytes);
            let op = CopyOp { lane: 0, ..*op };
            run(&mut bench, Source::Reader(&source), Io::Read, &[op], &mut arena);
            content(&arena.lanes[0])
        };
        for config in [EngineConfig::new(4, 3, 30_000, 9000), LARGE] {
            let source = Counting { bytes: bytes.clone(), read: AtomicU64::new(0) };
            let mut bench = Bench::new(setup, config);
            let mut arena = arena(&bench, ALL * 16 * 64);
            let stats = run(&mut bench, Source::Reader(&source), Io::Read, &ops, &mut arena);
            let needed = ALL * 16 * 34;
            assert_eq!(stats.source_bytes, needed, "{division:?}");
            assert_eq!(source.read.load(Ordering::Relaxed), needed, "{division:?}");
            for (op, buffer) in ops.iter().zip(&arena.lanes) {
                assert!(content(buffer)[..op.dest_bytes as usize] == one(op), "{op:?}");
            }
        }
    }
}

/// Wrong columns are refused, and so are rows that do not fit in a chunk.
pub(crate) fn bad_columns_are_refused(device: DeviceKind) {
    let matrix = Matrix { ggml_type: 12, converts: true, blocks: 4, start: 0 };
    let good = matrix.op(0, &(32..960), 0, 0);
    let with = |columns: Columns| CopyOp { columns, ..good };
    let plain = Matrix { converts: false, ..matrix }.op(0, &(256..768), 0, 0);
    let Columns { row_bytes, begin, end, skip, keep } = good.columns;
    let cases = [
        ("no rows", CopyOp { source_bytes: 0, dest_bytes: 0, ..good }),
        ("half a row", CopyOp { source_bytes: good.source_bytes - row_bytes / 2, ..good }),
        ("destination", CopyOp { dest_bytes: good.dest_bytes - 2, ..good }),
        ("columns after the row", with(Columns { end: end + 144, ..good.columns })),
        ("no columns", with(Columns { end: begin, ..good.columns })),
        ("half a block", with(Columns { begin: begin + 72, ..good.columns })),
        ("rows of half a block", with(Columns { row_bytes: row_bytes * 37 / 74, ..good.columns })),
        ("too many elements", with(Columns { skip: skip + 128, ..good.columns })),
        ("no elements", with(Columns { keep: 0, ..good.columns })),
        ("odd elements", with(Columns { skip: skip + 1, keep, ..good.columns })),
        ("wraps", with(Columns { skip: u32::MAX, keep: u32::MAX, ..good.columns })),
        ("a copy drops", CopyOp { columns: Columns { skip: 8, ..plain.columns }, ..plain }),
        ("a copy keeps", CopyOp { columns: Columns { keep: 8, ..plain.columns }, ..plain }),
    ];
    let file = file_of(&noise(matrix.bytes() as usize));
    let sources = [SourceFile { file: file.as_fd(), bytes: matrix.bytes() }.into()];
    let mut bench = Bench::new(Setup::plain(device, 1), LARGE);
    let refused = |bench: &mut Bench, op: CopyOp| {
        let mut arena = bench.arena(good.dest_bytes);
        let request = Request::new(&sources, Io::Read, std::slice::from_ref(&op), 1);
        let result = bench.execute(request, &mut arena, &mut |_| ControlFlow::Continue(()));
        result.err()
    };
    for (name, op) in cases {
        let error = refused(&mut bench, op).expect(name);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}: {error}");
        assert_eq!(error.operation(), Some(0), "{name}: {error}");
    }
    assert!(refused(&mut bench, good).is_none());
    // The destination of every eighth row is a multiple of 16 bytes, so that eight rows must be in one chunk.
    let row = Matrix { ggml_type: 14, converts: false, blocks: 4, start: 0 };
    let op = CopyOp { source_bytes: 16 * 840, dest_bytes: 16 * 210, ..row.op(0, &(0..256), 0, 0) };
    assert_eq!(least_chunk_bytes(&[op]), 6976);
    let bench =
        |chunk_bytes| Bench::new(Setup::plain(device, 1), EngineConfig { chunk_bytes, ..LARGE });
    let error = refused(&mut bench(4096), op).unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
    assert!(error.context().contains("need chunks of at least 6976 bytes"), "{error}");
    assert!(refused(&mut bench(6976), op).is_none());
}
