//! Measures the fixed cost of a load: the tiny synthetic model is loaded from the page cache into host
//! memory, so moving its bytes takes little of the time.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;
use std::ops::ControlFlow;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use loader::synth::{self, SynthOptions};
use loader::{DeviceChoice, LoadOptions, Loader, Unobserved};
use model_phi3::preset::{Layout, Preset, TypeMix};

fn load(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let mut group = criterion.benchmark_group("load");
    for type_mix in [TypeMix::F16, TypeMix::Q4_K_M] {
        let path = folder.path().join(type_mix.name());
        let options = SynthOptions::new(Preset::Tiny, Layout::Fused, type_mix, 0);
        let bytes = synth::write(&path, &options, &mut |_, _| ControlFlow::Continue(()))
            .expect("there is room for the model");
        group.throughput(Throughput::Bytes(bytes));
        let options = LoadOptions::new().device(DeviceChoice::Host);
        group.bench_function(format!("{}, new loader", type_mix.name()), |bencher| {
            bencher
                .iter(|| Loader::new(options.clone()).load(&path, &mut Unobserved).map(black_box));
        });
        let mut loader = Loader::new(options);
        group.bench_function(format!("{}, reused loader", type_mix.name()), |bencher| {
            bencher.iter(|| loader.load(&path, &mut Unobserved).map(black_box));
        });
    }
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
