//! Shared parts of this crate's tests: the golden models and a way to load them.

use loader::{DeviceChoice, LoadEvent, LoadOptions, Loader, Placement, SplitMode, Storage, Verify};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub(crate) fn testdata() -> PathBuf {
    // The GPU archive runs without the sources. The variable names its copy of the test data.
    std::env::var_os("PHI3_LOADER_TESTDATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata")),
        PathBuf::from,
    )
}

/// The expected content of a slot, computed by gguf-py.
#[derive(serde::Deserialize)]
pub(crate) struct ExpectedSlot {
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: String,
    sha256: Option<String>,
    native_sha256: String,
}

impl ExpectedSlot {
    /// Returns the digest of the slot's bytes; `None` if the slot does not exist with this storage.
    pub(crate) fn sha256(&self, storage: Storage) -> Option<&str> {
        match storage {
            Storage::Native => Some(&self.native_sha256),
            _ => self.sha256.as_deref(),
        }
    }
}

pub(crate) type ExpectedModels = BTreeMap<String, BTreeMap<String, ExpectedSlot>>;

/// Reads the expected content of the golden models, by file name.
pub(crate) fn expected() -> ExpectedModels {
    let path = testdata().join("models/expected.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn model_path(name: &str) -> PathBuf {
    testdata().join("models").join(name)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn go_on(_: &LoadEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Loads every golden model with both storages, and compares each slot with the expected content.
pub(crate) fn golden_models_load_exactly(device: DeviceChoice) {
    for storage in [Storage::F16, Storage::Native] {
        let mut loader = Loader::new(
            LoadOptions::new().device(device).storage(storage).verify(Verify::Checksum),
        );
        for (name, slots) in expected() {
            let model = loader.load(model_path(&name), &mut go_on).unwrap();
            let planned: Vec<_> =
                model.plan().whole().slots().iter().map(|slot| slot.slot.to_string()).collect();
            for slot in &planned {
                assert!(slots.contains_key(slot), "{name}: {slot} is not expected");
            }
            for (slot, expected) in &slots {
                let Some(want) = expected.sha256(storage) else {
                    assert!(!planned.contains(slot), "{name}: {slot} is not expected");
                    continue;
                };
                assert!(planned.contains(slot), "{name}: {slot} is missing");
                let slot = slot.parse().unwrap();
                let view = model.slot(slot).unwrap();
                let bytes = model.read_slot(slot).unwrap().unwrap();
                assert_eq!(sha256(&bytes), want, "{name}: {slot} {storage} {}", expected.dtype);
                assert_eq!(view.shape, expected.shape, "{name}: {slot}");
                assert_eq!(view.bytes, bytes.len() as u64, "{name}: {slot}");
            }
        }
    }
}

/// Loads every golden model that can be divided in this mode, with both storages, and compares each slot, put together
/// from the parts, with the expected content.
pub(crate) fn golden_models_load_exactly_in_parts(devices: &[DeviceChoice], mode: SplitMode) {
    let placement = Placement::new(mode, devices.len()).unwrap();
    for storage in [Storage::F16, Storage::Native] {
        let options = LoadOptions::new().devices(devices.iter().copied()).storage(storage);
        let mut loader = Loader::new(options.placement(placement.clone()).verify(Verify::Checksum));
        let mut loads = 0;
        for (name, slots) in expected() {
            let model = match loader.load(model_path(&name), &mut go_on) {
                Err(error) if error.code() == "PHI3_PLACEMENT" => continue,
                loaded => loaded.unwrap(),
            };
            loads += 1;
            for (slot, expected) in &slots {
                let Some(want) = expected.sha256(storage) else { continue };
                let bytes = model.read_slot(slot.parse().unwrap()).unwrap().unwrap();
                assert_eq!(sha256(&bytes), want, "{name}: {slot} {storage} {mode}");
            }
            let used = model.stats().device.to_string();
            for (part, device) in model.parts().iter().zip(devices) {
                assert_eq!(part.device(), device.resolve(), "{used}");
                part.verify_residency().unwrap();
            }
            model.verify_fingerprint(&model.fingerprint().unwrap()).unwrap();
        }
        assert!(loads > 0 && (mode == SplitMode::Tensor || loads == expected().len()), "{mode}");
    }
}
