//! Concurrent loads in one process.

use crate::common::{expected, go_on, model_path, sha256};
use loader::{DeviceChoice, Io, LoadOptions, LoadedModel, Loader, Storage, Verify};
use std::sync::Barrier;

const IO: [Io; 4] = [Io::Auto, Io::Mapped, Io::Read, Io::Direct];

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host).threads(2).verify(Verify::Checksum)
}

/// Checks that every slot of a golden model has the expected content.
fn is_golden(model: &LoadedModel, name: &str) {
    let slots = &expected()[name];
    let mut found = 0;
    for (slot, expected) in slots {
        let Some(want) = expected.sha256(model.plan().storage()) else { continue };
        let bytes = model.read_slot(slot.parse().unwrap()).unwrap().unwrap();
        assert_eq!(sha256(&bytes), want, "{name}: {slot}");
        found += 1;
    }
    assert_eq!(model.plan().whole().slots().len(), found);
}

#[test]
fn loaders_of_several_threads_load_correctly_at_the_same_time() {
    const THREADS: usize = 8;
    let names: Vec<_> = expected().into_keys().collect();
    let together = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (names, together) = (&names, &together);
            scope.spawn(move || {
                let storage = if thread % 2 == 0 { Storage::F16 } else { Storage::Native };
                let io = IO[thread % IO.len()];
                let mut loader = Loader::new(options().io(io).storage(storage));
                for round in 0..names.len() {
                    together.wait();
                    // Some threads load the same file, others load different files.
                    let name = &names[(thread / 2 + round) % names.len()];
                    is_golden(&loader.load(model_path(name), &mut go_on).unwrap(), name);
                }
            });
        }
    });
}

#[test]
fn a_loader_can_be_moved_between_threads() {
    let mut loader = Loader::new(options());
    for name in expected().keys() {
        loader = std::thread::scope(|scope| {
            let load = move || {
                is_golden(&loader.load(model_path(name), &mut go_on).unwrap(), name);
                loader
            };
            scope.spawn(load).join().unwrap()
        });
    }
}

#[test]
fn a_model_outlives_its_loader_and_is_read_by_several_threads() {
    let name = "fused-k-quants.gguf";
    let load = || Loader::new(options()).load(model_path(name), &mut go_on).unwrap();
    let model = std::thread::spawn(load).join().unwrap();
    let fingerprint = model.fingerprint().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                is_golden(&model, name);
                model.verify_fingerprint(&fingerprint).unwrap();
                assert_eq!(model.verify_residency().unwrap(), model.stats().proof.residency);
            });
        }
    });
    let other = std::thread::spawn(move || model.vram_bytes());
    assert!(other.join().unwrap() > 0);
}

#[test]
fn many_models_are_in_memory_at_once_without_overlap() {
    let mut loader = Loader::new(options());
    let names: Vec<_> = expected().into_keys().collect();
    let models: Vec<_> = (0..20)
        .map(|index| {
            let name = &names[index % names.len()];
            (name, loader.load(model_path(name), &mut go_on).unwrap())
        })
        .collect();
    let mut arenas: Vec<_> = models
        .iter()
        .map(|(_, model)| {
            let start = model.weights().unwrap().token_embedding.address;
            (start, start + model.vram_bytes())
        })
        .collect();
    arenas.sort_unstable();
    assert!(arenas.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{arenas:x?}");
    for (name, model) in &models {
        is_golden(model, name);
    }
}
