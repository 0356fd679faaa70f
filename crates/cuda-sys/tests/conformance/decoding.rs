//! Decoded values equal those of gguf-py.

use super::bench::{Bench, decode, file_of, noise};
use super::{LARGE, SHARED, SMALL, Setup};
use cuda_sys::{Conversion, CopyOp, Decoder, ErrorCode, Io, decoders};
use std::path::PathBuf;

fn testdata() -> PathBuf {
    // The GPU archive runs far from the sources, and this variable has the path of its copy.
    std::env::var_os("PHI3_LOADER_TESTDATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata")),
        PathBuf::from,
    )
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
