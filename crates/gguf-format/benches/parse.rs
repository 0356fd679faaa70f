//! Measures parsing of headers with all checks: a small header, and headers with real vocabularies.
//!
//! `whole` parses a file in memory. `open` opens a file on disk and reads its header from the page
//! cache.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

mod model;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gguf_format::{Gguf, GgufFile};

fn parse(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    for (name, tokens, merges) in model::FILES {
        let bytes = model::file(tokens, merges);
        let header = Gguf::parse(&bytes).expect("the model is valid").data_offset();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, &bytes).expect("there is room for the model");

        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(header));
        group.bench_function("whole", |b| b.iter(|| Gguf::parse(black_box(&bytes)).map(black_box)));
        group
            .bench_function("open", |b| b.iter(|| GgufFile::open(black_box(&path)).map(black_box)));
        group.finish();
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
