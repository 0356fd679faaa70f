//! Sources that are not files.

use super::bench::{Arena, Bench, copy, file_of, noise};
use super::{IOS, LARGE, SHARED, SMALL, Setup};
use cuda_sys::{
    CopyOp, EngineConfig, Error, ErrorCode, Io, PositionedRead, ReadHints, Request, Source,
    SourceFile, Stats, Stop,
};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The behaviour of a read that fails.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Errno(i32),
    Truncated,
    Panic,
    /// Waits until it is stopped, and then fails.
    UntilStopped,
}

/// A source in memory, with hints.
struct Memory {
    bytes: Vec<u8>,
    hints: ReadHints,
    /// The number of the read that fails, from 1, and its behaviour.
    fails: Option<(u64, Failure)>,
    reads: AtomicU64,
    waits: AtomicBool,
}

impl Memory {
    fn new(bytes: Vec<u8>, hints: ReadHints) -> Self {
        let (reads, waits) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { bytes, hints, fails: None, reads, waits }
    }
}

impl PositionedRead for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn hints(&self) -> ReadHints {
        self.hints
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64, stop: Stop<'_>) -> io::Result<()> {
        let (begin, end) = (offset as usize, offset as usize + out.len());
        if self.hints.whole_pages {
            assert_eq!((begin % 4096, out.as_ptr().addr() % 4096), (0, 0));
            assert!(end % 4096 == 0 || end == self.bytes.len(), "{begin}..{end}");
        }
        let number = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        match self.fails {
            Some((nth, failure)) if nth == number => match failure {
                Failure::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
                Failure::Truncated => Err(io::ErrorKind::UnexpectedEof.into()),
                // Without the panic hook, whose output would hide that of other tests.
                Failure::Panic => resume_unwind(Box::new("the source gave up")),
                Failure::UntilStopped => {
                    self.waits.store(true, Ordering::Relaxed);
                    while !stop.is_set() {
                        std::thread::yield_now();
                    }
                    Err(io::ErrorKind::Interrupted.into())
                }
            },
            _ => {
                out.copy_from_slice(&self.bytes[begin..end]);
                Ok(())
            }
        }
    }
}

const HINTS: [ReadHints; 4] = [
    ReadHints { whole_pages: false, read_bytes: u64::MAX, concurrent: false },
    ReadHints { whole_pages: true, read_bytes: u64::MAX, concurrent: true },
    ReadHints { whole_pages: true, read_bytes: 5000, concurrent: false },
    ReadHints { whole_pages: false, read_bytes: 1, concurrent: true },
];

/// One call reads from a source in memory and from a file.
pub(crate) fn a_source_in_memory_is_read(setup: Setup) {
    let bytes = noise(300_001);
    let other = noise(70_000);
    let file = file_of(&other);
    let file = SourceFile { file: file.as_fd(), bytes: other.len() as u64 }.into();
    // Ranges that are not whole pages, the end of the source, and neighbours. Operations that begin on
    // words are digested in shares.
    let ops = [
        copy(4104, 100_000, 0, 0),
        CopyOp { source: 1, ..copy(11, 69_989, 100_000, 0) },
        copy(104_104, 150_000, 169_989_u64.next_multiple_of(16), 1),
        copy(299_985, 16, 320_000, 1),
    ];
    for hints in HINTS {
        let memory = Memory::new(bytes.clone(), hints);
        let sources = [Source::Reader(&memory), file];
        for (io, config) in IOS.into_iter().flat_map(|io| [SMALL, SHARED, LARGE].map(|c| (io, c))) {
            let mut bench = Bench::new(setup, config);
            let mut arena = bench.arena(320_016);
            let before = memory.reads.load(Ordering::Relaxed);
            let stats =
                transfer(&mut bench, &sources, io, &ops, &mut arena, &mut || false).unwrap();
            let reads = memory.reads.load(Ordering::Relaxed) - before;
            let content = arena.content();
            for (op, report) in ops.iter().zip(&stats.operations) {
                let source = if op.source == 0 { &bytes } else { &other };
                let from = op.source_offset as usize..(op.source_offset + op.source_bytes) as usize;
                let to = op.dest_offset as usize..(op.dest_offset + op.dest_bytes) as usize;
                assert!(content[to] == source[from], "{op:?} {io:?} {config:?} {hints:?}");
                assert_eq!(report.source, report.device, "{op:?} {io:?} {config:?} {hints:?}");
            }
            if hints.read_bytes < 8192 {
                assert!(reads > 250_016 / 4096, "{reads} reads, {config:?} {hints:?}");
            }
        }
    }
}

/// One operation for each page, and some that share a page.
fn many_operations() -> Vec<CopyOp> {
    (0..24).map(|index| copy(index * 4096, 4096 - 16 * (index % 3), index * 4096, 0)).collect()
}

/// Executes with digests, and cancels when `cancels` returns true.
fn transfer(
    bench: &mut Bench,
    sources: &[Source<'_>],
    io: Io,
    ops: &[CopyOp],
    arena: &mut Arena,
    cancels: &mut dyn FnMut() -> bool,
) -> Result<Stats, Error> {
    let ops = bench.in_turn(ops);
    let units = ops.iter().map(|op| op.unit + 1).max().unwrap_or(0);
    let request = Request { sources, io, ops: &ops, units, digest: true, timeline: false };
    bench.execute(request, arena, &mut |_| {
        if cancels() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// Runs `faulty` for each read of a call, so that this read fails. Before each run, checks that the engine
/// reads from a source that does not fail.
fn each_read_in_turn(
    setup: Setup,
    failure: Failure,
    mut faulty: impl FnMut(&mut Bench, &Memory, &[CopyOp], &mut Arena),
) {
    let ops = many_operations();
    let bytes = noise(24 * 4096);
    for config in [SMALL, SHARED] {
        for hints in &HINTS[..2] {
            let mut bench = Bench::new(setup, config);
            let mut arena = bench.arena(24 * 4096);
            let sound = Memory::new(bytes.clone(), *hints);
            let mut reads = 0;
            for nth in 1.. {
                arena.write(&vec![0; bytes.len()]);
                sound.reads.store(0, Ordering::Relaxed);
                let sources = [Source::Reader(&sound)];
                transfer(&mut bench, &sources, Io::Read, &ops, &mut arena, &mut || false).unwrap();
                let content = arena.content();
                for op in &ops {
                    let range = op.dest_offset as usize..(op.dest_offset + op.dest_bytes) as usize;
                    assert!(content[range.clone()] == bytes[range], "{op:?}");
                }
                reads = sound.reads.load(Ordering::Relaxed);
                if nth > reads {
                    break;
                }
                let memory =
                    Memory { fails: Some((nth, failure)), ..Memory::new(bytes.clone(), *hints) };
                faulty(&mut bench, &memory, &ops, &mut arena);
            }
            assert!(reads >= 3, "{reads} reads, {config:?}");
        }
    }
}

/// If a read fails, its error is returned, with the source and the operation of the read.
pub(crate) fn every_read_fails_once(setup: Setup) {
    let eio = 5;
    for (failure, code, status) in [
        (Failure::Errno(eio), ErrorCode::Io, eio),
        (Failure::Truncated, ErrorCode::FileTruncated, 0),
    ] {
        each_read_in_turn(setup, failure, |bench, memory, ops, arena| {
            // The second source fails.
            let sound = Memory::new(Vec::new(), ReadHints::default());
            let sources = [Source::Reader(&sound), Source::Reader(memory)];
            let ops: Vec<_> = ops.iter().map(|op| CopyOp { source: 1, ..*op }).collect();
            let error =
                transfer(bench, &sources, Io::Read, &ops, arena, &mut || false).unwrap_err();
            assert_eq!((error.code(), error.status()), (code, status), "{error}");
            assert_eq!((error.source_file(), error.lane()), (Some(1), None), "{error}");
            let operation = &ops[error.operation().unwrap() as usize];
            let at = error.context().split_once(" at byte ").unwrap().1;
            let at: u64 = at.split_once(':').unwrap().0.parse().unwrap();
            // The first operation of the read; reads of whole pages may begin before it.
            let end = operation.source_offset + operation.source_bytes;
            assert!(at.next_multiple_of(4096).saturating_sub(4096) < end, "{error}: {operation:?}");
        });
    }
    each_read_in_turn(setup, Failure::Panic, |bench, memory, ops, arena| {
        let sources = [Source::Reader(memory)];
        let payload = catch_unwind(AssertUnwindSafe(|| {
            transfer(bench, &sources, Io::Read, ops, arena, &mut || false)
        }))
        .unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"the source gave up"));
    });
}

/// If a call is cancelled during a read, the read ends and the call returns as cancelled, whatever the read
/// returns.
pub(crate) fn a_call_can_be_cancelled_at_every_read(setup: Setup) {
    each_read_in_turn(setup, Failure::UntilStopped, |bench, memory, ops, arena| {
        let sources = [Source::Reader(memory)];
        let error = transfer(bench, &sources, Io::Read, ops, arena, &mut || {
            memory.waits.load(Ordering::Relaxed)
        })
        .unwrap_err();
        assert_eq!(error.code(), ErrorCode::Cancelled, "{error}");
    });
}

/// A source whose hints say that its reads wait gets as many readers as storage.
pub(crate) fn sources_that_wait_get_more_readers(setup: Setup) {
    let config = EngineConfig { readers: 2, storage_readers: 5, ..SMALL };
    for concurrent in [false, true] {
        let memory =
            Memory::new(noise(24 * 4096), ReadHints { concurrent, ..ReadHints::default() });
        let mut bench = Bench::new(setup, config);
        let mut arena = bench.arena(24 * 4096);
        let (sources, ops) = ([Source::Reader(&memory)], many_operations());
        let stats =
            transfer(&mut bench, &sources, Io::Direct, &ops, &mut arena, &mut || false).unwrap();
        assert_eq!(stats.readers, if concurrent { 5 } else { 2 });
        assert_eq!(stats.io, Io::Direct, "no file has fallen back");
    }
}
