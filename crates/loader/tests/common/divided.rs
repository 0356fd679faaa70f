//! Loads of a model to several devices, compared with a load of the same file to one.

use crate::common::go_on;
use loader::{
    DeviceChoice, DeviceKind, Error, LoadOptions, LoadedModel, Loader, Placement, SplitMode,
    Storage, Verify,
};
use std::path::Path;

/// Options of a load to this number of lanes of host memory.
pub(crate) fn hosts(devices: usize) -> LoadOptions {
    LoadOptions::new().devices(vec![DeviceChoice::Host; devices])
}

/// Placements of a mode on this number of devices, in equal proportions and in others.
pub(crate) fn placements(mode: SplitMode, devices: usize) -> Vec<Placement> {
    let equal = Placement::new(mode, devices).unwrap();
    let mut placements = vec![equal.clone()];
    let uneven: Vec<_> = (0..devices).map(|device| if device == 0 { 3.0 } else { 1.0 }).collect();
    placements.extend(equal.with_proportions(&uneven));
    if mode == SplitMode::Layer && devices > 1 {
        placements
            .extend([0, 1, 99].map(|layers| Placement::last_layers(layers, devices).unwrap()));
    }
    placements
}

/// Loads the model to host memory in parts. `None` if it cannot be divided in this way, which the error must say.
pub(crate) fn load_in_parts(
    path: &Path,
    storage: Storage,
    placement: &Placement,
) -> Option<LoadedModel> {
    load_with(hosts(placement.devices()).storage(storage), path, placement)
}

/// Loads as [`load_in_parts`] does, with these options.
pub(crate) fn load_with(
    options: LoadOptions,
    path: &Path,
    placement: &Placement,
) -> Option<LoadedModel> {
    let storage = options.storage;
    let options = options.placement(placement.clone()).verify(Verify::Readback);
    match Loader::new(options).load(path, &mut go_on) {
        Ok(model) => Some(model),
        Err(error @ Error::Model { .. }) => {
            assert_eq!((error.code(), error.exit_code()), ("PHI3_PLACEMENT", 4), "{error}");
            assert_eq!(placement.mode(), SplitMode::Tensor, "{error}");
            None
        }
        Err(error) => panic!("{}: {placement:?} {storage}: {error}", path.display()),
    }
}

/// Checks a model in parts: weights, ranges, residency, fingerprints and statistics.
pub(crate) fn check(model: &LoadedModel, whole: &LoadedModel) {
    assert!(whole.parts().len() == 1 && whole.slot(loader::Slot::OutputNorm).is_some());
    for planned in whole.plan().whole().slots() {
        let slot = planned.slot;
        let bytes = whole.read_slot(slot).unwrap().unwrap();
        assert!(model.read_slot(slot).unwrap().unwrap() == bytes, "{slot}");
        if let Some(view) = model.slot(slot) {
            assert_eq!((&view.shape, view.bytes), (&planned.shape, bytes.len() as u64), "{slot}");
            assert_eq!(model.host_bytes(slot), Some(&bytes[..]), "{slot}");
        }
        for part in model.parts() {
            let Some(view) = part.slot(slot) else { continue };
            let [.., cols] = view.shape[..] else { panic!("{slot}") };
            assert_eq!(view.cols.end - view.cols.start, cols, "{slot}");
            assert_eq!(view.is_whole(), view.shape == planned.shape, "{slot}");
            assert_eq!(part.host_bytes(slot).unwrap().len() as u64, view.bytes, "{slot}");
            assert_eq!(part.read_slot(slot).unwrap().as_deref(), part.host_bytes(slot), "{slot}");
        }
    }
    let residency = model.verify_residency().unwrap();
    let stats = model.stats();
    assert_eq!(residency, stats.proof.residency);
    let slots = model.parts().iter().map(|part| part.plan().slots().len());
    assert_eq!(residency.pointers_checked as usize, slots.sum::<usize>());
    assert_eq!(model.vram_bytes(), model.plan().device_bytes());
    assert_eq!(stats.source_bytes, whole.stats().source_bytes, "a byte counts once");
    assert_eq!(stats.device.len(), model.parts().len());
    assert_eq!(stats.split_mode, model.plan().placement().mode());
    for (of_part, part) in stats.parts.iter().zip(model.parts()) {
        assert_eq!((of_part.device, of_part.vram_bytes), (DeviceKind::Host, part.vram_bytes()));
        assert_eq!(of_part.slots, part.plan().slots());
        assert_eq!(of_part.residency, part.verify_residency().unwrap());
        part.verify_fingerprint(&part.fingerprint().unwrap()).unwrap();
    }
    model.verify_fingerprint(&model.fingerprint().unwrap()).unwrap();
}

/// Loads the model with both storages in this mode to 1 to 4 devices. Returns the number of loads to several devices
/// that were possible.
pub(crate) fn divide(path: &Path, mode: SplitMode) -> usize {
    let mut loads = 0;
    for storage in [Storage::F16, Storage::Native] {
        let one = Loader::new(hosts(1).storage(storage)).load(path, &mut go_on).unwrap();
        for placement in (1..=4).flat_map(|devices| placements(mode, devices)) {
            let Some(model) = load_in_parts(path, storage, &placement) else { continue };
            check(&model, &one);
            loads += usize::from(model.parts().len() > 1);
        }
    }
    loads
}
