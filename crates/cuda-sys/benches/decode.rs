//! Time to decode blocks to halves on one core, for every type.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cuda_sys::{HostIsa, decode_to_f16, decoders};

/// The number of values that a reader decodes while their bytes are still in its core's cache.
const ELEMENTS: usize = 256 << 10;

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for decoder in decoders() {
        let blocks =
            vec![0x35; ELEMENTS / decoder.block_len as usize * decoder.block_bytes as usize];
        let mut halves = vec![0; ELEMENTS];
        group.throughput(Throughput::Elements(ELEMENTS as u64));
        group.bench_function(&decoder.name, |bencher| {
            bencher.iter(|| {
                decode_to_f16(
                    decoder.ggml_type,
                    black_box(&blocks),
                    &mut halves,
                    1.0,
                    HostIsa::Best,
                )
                .expect("the buffers fit the type");
                black_box(&mut halves);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
