//! Files that change at random moments while they are loaded.

use crate::changes::{BATCH, MOMENTS, SETTLING, Tally, cases, contents, file_name, rng};
use crate::common::go_on;
use loader::{DeviceChoice, Io, LoadEvent, LoadOptions, LoadedModel, Loader, Verify};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// The number of random moments for a model in shards.
const SHARD_MOMENTS: usize = 40;

/// The number of changes during a load, and of changes after a load, for each verification level.
const CERTAIN: usize = 4;

/// Checks two rules that do not depend on timing: a change during a load is detected, and a change after a load
/// does not affect the loaded weights.
fn certain_moments(
    loader: &mut Loader,
    folder: &Path,
    old: &[Vec<u8>],
    new: &[Vec<u8>],
    old_slots: &Slots,
    rng: &mut fastrand::Rng,
) {
    for case in cases(&folder.join("within"), old, new, CERTAIN, rng) {
        let change = || case.change.make(&case.file(new.len()), &new[case.shard]);
        let mut change_when_allocated = |event: &LoadEvent<'_>| {
            if matches!(event, LoadEvent::Allocated { .. }) {
                change();
            }
            ControlFlow::Continue(())
        };
        let error = loader.load(&case.first, &mut change_when_allocated).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7), "{:?}", case.change);
    }
    for case in cases(&folder.join("after"), old, new, CERTAIN, rng) {
        let model = loader.load(&case.first, &mut go_on).unwrap();
        case.change.make(&case.file(new.len()), &new[case.shard]);
        assert!(slots(&model) == *old_slots, "{:?}", case.change);
    }
}

type Slots = Vec<Vec<u8>>;

fn slots(model: &LoadedModel) -> Slots {
    let slots = model.plan().whole().slots().iter().map(|planned| planned.slot);
    slots.map(|slot| model.read_slot(slot).unwrap().unwrap()).collect()
}

/// Writes these files and loads them. Returns the weights and the duration of a load.
fn loaded(loader: &mut Loader, folder: &Path, files: &[Vec<u8>]) -> (Slots, Duration) {
    for (no, bytes) in files.iter().enumerate() {
        std::fs::write(folder.join(file_name(files.len(), no)), bytes).unwrap();
    }
    std::thread::sleep(SETTLING);
    let first = folder.join(file_name(files.len(), 0));
    let slots = slots(&loader.load(&first, &mut go_on).unwrap());
    let start = Instant::now();
    loader.load(&first, &mut go_on).unwrap();
    (slots, start.elapsed())
}

fn never_mixed(io: Io, shards: usize, moments: usize) {
    let mut rng = rng();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (contents(shards, 1), contents(shards, 2));
    let options = LoadOptions::new().device(DeviceChoice::Host).io(io).threads(2).chunk_bytes(4096);
    let mut loaders = [Verify::Residency, Verify::Checksum, Verify::Readback]
        .map(|verify| Loader::new(options.clone().verify(verify)));
    let (old_slots, _) = loaded(&mut loaders[0], dir.path(), &old);
    let times = loaders.each_mut().map(|loader| loaded(loader, dir.path(), &old).1);
    let new_slots: Vec<_> = (0..shards)
        .map(|shard| {
            let mut files = old.clone();
            files[shard].clone_from(&new[shard]);
            loaded(&mut loaders[0], dir.path(), &files).0
        })
        .collect();
    assert!(!new_slots.contains(&old_slots));
    for (level, loader) in loaders.iter_mut().enumerate() {
        let folder = dir.path().join(format!("certain-{level}"));
        certain_moments(loader, &folder, &old, &new, &old_slots, &mut rng);
    }

    let mut tally = Tally::default();
    for batch in 0..moments / BATCH {
        for case in cases(&dir.path().join("cases"), &old, &new, BATCH, &mut rng) {
            let level = rng.usize(..loaders.len());
            let mut opened = false;
            let result = case.run(&new, times[level], || {
                loaders[level].load(&case.first, &mut |_: &LoadEvent<'_>| {
                    opened = true;
                    ControlFlow::Continue(())
                })
            });
            let context = format!("{io:?}, batch {batch}, level {level}");
            let result = match &result {
                Ok(model) => Ok((slots(model), &old_slots, &new_slots[case.shard])),
                Err(error) => Err((error.code(), i32::from(error.exit_code()), opened)),
            };
            tally.count(&case, result, &context);
        }
    }
    println!("{tally:?}");
}

#[test]
fn no_mixture_of_an_old_and_a_new_file_passes_with_auto() {
    never_mixed(Io::Auto, 1, MOMENTS);
}

#[test]
fn no_mixture_of_an_old_and_a_new_file_passes_with_read() {
    never_mixed(Io::Read, 1, MOMENTS);
}

#[test]
fn no_mixture_of_an_old_and_a_new_file_passes_with_direct() {
    never_mixed(Io::Direct, 1, MOMENTS);
}

#[test]
fn no_mixture_of_old_and_new_shards_passes() {
    for io in [Io::Auto, Io::Mapped, Io::Read, Io::Direct] {
        never_mixed(io, 3, SHARD_MOMENTS);
    }
}
