//! Bytes arrive under every division of the work.

use super::bench::{Bench, copy, decode, decoder, file_of, noise};
use super::{F32, IOS, LARGE, SHARED, SMALL, Setup};
use cuda_sys::{DeviceKind, EngineConfig, Io, SpanKind};
use half::f16;
use std::ops::ControlFlow;

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

/// Every chunk is read once. For a GPU, it is queued, and the GPU reports the times of its copy and its work. On the
/// host, a reader does the work. Each step has the operations of its chunk.
pub(crate) fn the_timeline_has_every_chunk(setup: Setup) {
    let file = file_of(&noise(100_000));
    let mut bench = Bench::new(setup, SMALL);
    let mut dest = bench.arena(100_000);
    let first = 12 * SMALL.chunk_bytes;
    let ops = [copy(0, first, 0, 0), copy(first, 100_000 - first, first, 0)];
    let stats =
        bench.run(&file, Io::Read, &ops, 1, &mut dest, &mut |_| ControlFlow::Continue(())).unwrap();
    let chunks_of = |kind: SpanKind| {
        let mut chunks: Vec<_> =
            stats.timeline.iter().filter(|span| span.kind == kind).map(|span| span.chunk).collect();
        chunks.sort_unstable();
        chunks
    };
    let all: Vec<_> = (0..stats.chunks).collect();
    assert_eq!(chunks_of(SpanKind::Read), all);
    assert_eq!(chunks_of(SpanKind::Work), all);
    let queued = if setup.device == DeviceKind::Host { Vec::new() } else { all };
    assert_eq!(chunks_of(SpanKind::Queue), queued);
    assert_eq!(chunks_of(SpanKind::Copy), queued);
    for span in &stats.timeline {
        assert!(span.start <= span.end && span.reader < SMALL.readers, "{span:?}");
        let operations = span.first_operation..span.first_operation + span.operations;
        assert_eq!(operations.is_empty(), span.chunk == stats.chunks, "{span:?}");
        // The first chunk has bytes of the first operation, and the last chunk those of the last one.
        if span.chunk == 0 {
            assert_eq!(operations, 0..1, "{span:?}");
        }
        if span.chunk + 1 == stats.chunks {
            assert_eq!(operations, 1..2, "{span:?}");
        }
    }
}
