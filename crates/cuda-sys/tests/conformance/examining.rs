//! Digests, counts of infinities and NaNs, and operations of zeros.

use super::bench::{Bench, copy, decode, decoder, file_of, noise};
use super::digest_definition;
use super::{F32, IOS, LARGE, SHARED, SMALL, Setup};
use cuda_sys::{CopyOp, Device, Digest, ErrorCode, FloatFormat, Io, Request, SourceFile};
use half::f16;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

pub(super) fn digest_by_definition(bytes: &[u8]) -> Digest {
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
pub(crate) fn a_flipped_bit_changes_one_digest(setup: Setup) {
    let device = Device::open(setup.device).unwrap();
    let mut buffer = setup.allocate(&device, 1024).unwrap();
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
            let sources = [file.into()];
            let request = Request { digest, ..Request::new(&sources, io, &ops, 1) };
            let stats =
                bench.execute(request, &mut dest, &mut |_| ControlFlow::Continue(())).unwrap();
            let found: Vec<_> = stats.operations.iter().map(|report| report.all_zero).collect();
            assert_eq!(found, want, "{config:?} {io:?} {digest}");
        }
    }
}
