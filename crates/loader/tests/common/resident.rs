//! Weights that outlive their model, on any device. `host/resident.rs` and `gpu_resident.rs` run these tests.

use crate::common::{expected, go_on, model_path};
use cuda_sys::{Access, Device};
use keeper::{Entry, Error as KeeperError, Found, Key, Manifest, Store};
use loader::{
    CancelToken, DeviceChoice, Error, LoadEvent, LoadOptions, LoadedModel, Loader, Mismatch,
    Replace, Resident, SplitMode, Storage,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A store in this process.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// The calls, by name.
    pub(crate) calls: Vec<&'static str>,
    /// The calls for which there is no room.
    pub(crate) full: &'static [&'static str],
}

fn copy(entry: &Entry) -> Entry {
    let descriptors = entry.descriptors.iter().map(|of| of.try_clone().unwrap()).collect();
    Entry::new(entry.manifest.clone(), descriptors).unwrap()
}

impl Shelf {
    fn call(&mut self, name: &'static str) -> Result<(), KeeperError> {
        self.calls.push(name);
        match self.full.contains(&name) {
            true => Err(KeeperError::Full { limit: "it is a test".to_owned() }),
            false => Ok(()),
        }
    }

    pub(crate) fn only(&mut self) -> &mut Entry {
        assert_eq!(self.entries.len(), 1);
        self.entries.values_mut().next().unwrap()
    }
}

impl Store for Shelf {
    fn find(&mut self, key: &Key, _: &mut dyn FnMut() -> bool) -> Result<Found, KeeperError> {
        self.call("find")?;
        Ok(self.entries.get(key).map_or(Found::Claimed, |entry| Found::Entry(copy(entry))))
    }

    fn publish(&mut self, entry: &Entry) -> Result<(), KeeperError> {
        self.call("publish")?;
        // What a keeper does: it sees only the encoding.
        let manifest = Manifest::decode(&entry.manifest.encode().unwrap()).unwrap();
        assert_eq!(manifest, entry.manifest);
        self.entries.insert(manifest.key.clone(), copy(entry));
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<bool, KeeperError> {
        self.call("remove")?;
        Ok(self.entries.remove(key).is_some())
    }

    fn give_up(&mut self, _: &Key) -> Result<(), KeeperError> {
        self.call("give_up")
    }
}

pub(crate) fn load(
    options: &LoadOptions,
    path: &Path,
    shelf: &mut Shelf,
    mismatch: Mismatch,
) -> Result<LoadedModel, Error> {
    let mut loader = Loader::new(options.clone());
    loader.load_resident(path, shelf, mismatch, &mut go_on, &CancelToken::new())
}

pub(crate) fn attach(entry: &Entry) -> Result<LoadedModel, Error> {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    loader.attach(entry, &mut go_on, &CancelToken::new())
}

/// Checks that two models have the same weights.
#[track_caller]
pub(crate) fn assert_equal(one: &LoadedModel, other: &LoadedModel) {
    for slot in one.plan().whole().slots().iter().map(|planned| planned.slot) {
        assert!(one.read_slot(slot).unwrap() == other.read_slot(slot).unwrap(), "{slot}");
    }
    assert_eq!(one.config(), other.config());
}

#[track_caller]
pub(crate) fn refused(result: Result<LoadedModel, Error>, code: &str, text: &str) {
    let error = result.map(drop).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

/// Every golden model with both storages is published, and attached after its first owner is gone.
pub(crate) fn weights_outlive_their_model(device: DeviceChoice) {
    for name in expected().keys() {
        for storage in [Storage::F16, Storage::Native] {
            let path = model_path(name);
            let options = LoadOptions::new().device(device).storage(storage);
            let plain = Loader::new(options.clone()).load(&path, &mut go_on).unwrap();
            let mut shelf = Shelf::default();
            let published = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
            assert_eq!(published.stats().resident, Resident::Published);
            assert_eq!(published.stats().source_bytes, plain.stats().source_bytes);
            assert!(published.parts()[0].is_protected());
            drop(published);

            let attached = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
            let stats = attached.stats();
            assert_eq!((stats.resident, stats.source_bytes), (Resident::Attached, 0));
            assert_eq!(stats.vram_bytes, plain.vram_bytes());
            assert_eq!(stats.proof.residency, plain.stats().proof.residency);
            assert!(attached.parts()[0].is_protected());
            assert_equal(&attached, &plain);
            let beside = attach(shelf.only()).unwrap();
            assert_equal(&beside, &plain);
            assert_eq!(beside.plan(), plain.plan());
            assert_eq!(beside.metadata().len(), plain.metadata().len());
            assert_eq!(shelf.calls, ["find", "publish", "find"]);
        }
    }
}

/// A model in several parts is one entry, with descriptors of each part.
pub(crate) fn parts_outlive_their_model(devices: &[DeviceChoice]) {
    let path = model_path("long-context-f16.gguf");
    let mut shelf = Shelf::default();
    let mut count = 0;
    for mode in [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate] {
        let placement = loader::Placement::new(mode, devices.len()).unwrap();
        let options = LoadOptions::new().devices(devices.to_vec()).placement(placement);
        let Ok(plain) = Loader::new(options.clone()).load(&path, &mut go_on) else {
            assert_eq!(mode, SplitMode::Tensor, "its columns cannot be cut for all numbers");
            continue;
        };
        drop(load(&options, &path, &mut shelf, Mismatch::Fail).unwrap());
        count += 1;
        assert_eq!(shelf.entries.len(), count, "each division has its own entry");
        let attached = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
        assert_eq!(attached.stats().resident, Resident::Attached);
        assert_equal(&attached, &plain);
        for (part, plain) in attached.parts().iter().zip(plain.parts()) {
            assert_eq!((part.device(), part.vram_bytes()), (plain.device(), plain.vram_bytes()));
        }
    }
    for entry in shelf.entries.values() {
        assert_eq!(entry.manifest.parts.len(), devices.len());
        assert_eq!(entry.descriptors.len(), devices.len());
        assert_eq!(attach(entry).unwrap().parts().len(), devices.len());
    }
}

/// Returns memory with the bytes of the entry's only part, except for one flipped bit.
fn with_flipped_bit(entry: &Entry, at: u64) -> OwnedFd {
    let model = attach(entry).unwrap();
    let bytes = entry.manifest.parts[0].bytes;
    let device = Device::open(model.parts()[0].device()).unwrap();
    let share = (entry.descriptors[0].as_fd(), entry.manifest.parts[0].descriptors[0]);
    let original = device.import(&[share], bytes, Access::ReadOnly).unwrap();
    let mut content = vec![0; bytes as usize];
    original.read(0, &mut content).unwrap();
    content[at as usize] ^= 4;
    let mut changed = device.allocate_shareable(bytes).unwrap();
    changed.write(0, &content).unwrap();
    changed.protect().unwrap();
    changed.share().unwrap().remove(0).descriptor
}

/// A bit that flips in any tensor is found, and the tensor named. The file can be loaded instead.
pub(crate) fn a_flipped_bit_is_found(device: DeviceChoice) {
    let path = model_path("fused-f16.gguf");
    let options = LoadOptions::new().device(device);
    let mut shelf = Shelf::default();
    let model = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
    let ops: Vec<_> = model.parts()[0]
        .plan()
        .ops()
        .iter()
        .map(|op| (op.tensor.to_string(), op.dest.clone()))
        .collect();
    let whole = copy(shelf.only());
    for (tensor, range) in &ops {
        for at in [range.start, range.end - 1] {
            shelf.only().descriptors = vec![with_flipped_bit(&whole, at)];
            let text = format!("tensor {tensor} on ");
            refused(attach(shelf.only()), "VERIFICATION_FAILED", &text);
            refused(
                load(&options, &path, &mut shelf, Mismatch::Fail),
                "VERIFICATION_FAILED",
                &text,
            );
        }
    }
    let reloaded = load(&options, &path, &mut shelf, Mismatch::Reload).unwrap();
    assert_eq!(reloaded.stats().resident, Resident::Published);
    assert_equal(&reloaded, &model);
    let attached = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
    assert_eq!(attached.stats().resident, Resident::Attached);
}

/// Descriptors of other things and changed manifests are refused; nothing else happens.
pub(crate) fn other_descriptors_and_manifests_are_refused(device: DeviceChoice) {
    let path = model_path("fused-f16.gguf");
    let options = LoadOptions::new().device(device);
    let mut shelf = Shelf::default();
    let model = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
    let whole = copy(shelf.only());
    let file: OwnedFd = std::fs::File::open(&path).unwrap().into();
    let wrong = Entry::new(whole.manifest.clone(), vec![file]).unwrap();
    refused(attach(&wrong), "RESIDENT_REFUSED", "descriptor");
    shelf.only().descriptors = wrong.descriptors;
    refused(load(&options, &path, &mut shelf, Mismatch::Fail), "RESIDENT_REFUSED", "descriptor");
    let reloaded = load(&options, &path, &mut shelf, Mismatch::Reload).unwrap();
    assert_equal(&reloaded, &model);

    let changed = |change: &dyn Fn(&mut Manifest)| {
        let mut entry = copy(&whole);
        change(&mut entry.manifest);
        attach(&entry)
    };
    attach(&whole).unwrap();
    for (code, text, change) in [
        ("RESIDENT_REFUSED", "another way", &|of: &mut Manifest| of.plan_digest[3] ^= 1),
        ("RESIDENT_REFUSED", "another way", &|of: &mut Manifest| of.parts[0].bytes -= 256),
        ("RESIDENT_REFUSED", "has the key", &|of: &mut Manifest| of.files[0].bytes += 32),
        ("RESIDENT_REFUSED", "has the key", &|of: &mut Manifest| of.storage = "native".into()),
        ("RESIDENT_REFUSED", "storage q4", &|of: &mut Manifest| of.storage = "q4".into()),
        ("RESIDENT_REFUSED", "split mode", &|of: &mut Manifest| of.placement.mode = "x".into()),
        ("RESIDENT_REFUSED", "proportions", &|of: &mut Manifest| {
            of.placement.proportions = vec![1.0; 3];
        }),
        ("VERIFICATION_FAILED", "another model", &|of: &mut Manifest| {
            of.parts[0].digests.pop();
        }),
        ("VERIFICATION_FAILED", "differs", &|of: &mut Manifest| {
            of.parts[0].digests[1].digest[15] ^= 1;
        }),
        ("GGUF_BAD_MAGIC", "", &|of: &mut Manifest| of.files[0].header.clear()),
        ("RESIDENT_REFUSED", "no file", &|of: &mut Manifest| of.files.clear()),
        ("RESIDENT_REFUSED", "", &|of: &mut Manifest| of.parts.clear()),
    ] as [(&str, &str, &dyn Fn(&mut Manifest)); 12]
    {
        refused(changed(change), code, text);
    }
    let elsewhere = changed(&|of| {
        of.parts[0].device = "GPU-00000000-0000-0000-0000-000000000000".to_owned();
        let old = of.key.to_string();
        let (start, end) = (old.split("-f16-").next().unwrap(), old.rsplit('-').next().unwrap());
        of.key = format!("{start}-f16-gpu000000000000-{end}").parse().unwrap();
    });
    refused(elsewhere, "RESIDENT_REFUSED", "which this process does not see");
}

/// A file in another state, another storage and another file are other weights.
pub(crate) fn a_changed_file_is_loaded(device: DeviceChoice) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(model_path("fused-f16.gguf"), &path).unwrap();
    let options = LoadOptions::new().device(device);
    let mut shelf = Shelf::default();
    let resident = |options: &LoadOptions, shelf: &mut Shelf| {
        load(options, &path, shelf, Mismatch::Fail).unwrap().stats().resident
    };
    assert_eq!(resident(&options, &mut shelf), Resident::Published);
    assert_eq!(resident(&options, &mut shelf), Resident::Attached);
    // The same header, other weights.
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    shelf.calls.clear();
    assert_eq!(resident(&options, &mut shelf), Resident::Published);
    assert_eq!(shelf.calls, ["find", "remove", "find", "publish"], "the old weights go first");
    assert_eq!(shelf.entries.len(), 1);
    assert_eq!(resident(&options, &mut shelf), Resident::Attached);
    let native = options.clone().storage(Storage::Native);
    assert_eq!(resident(&native, &mut shelf), Resident::Published);
    assert_eq!(shelf.entries.len(), 2);
    std::fs::remove_file(&path).unwrap();
    for entry in shelf.entries.values() {
        attach(entry).unwrap();
    }
}

/// A load succeeds if its weights cannot be published. A load that fails gives its claim up.
pub(crate) fn failures_of_the_store_are_not_those_of_the_load(device: DeviceChoice) {
    let path = model_path("fused-f16.gguf");
    let options = LoadOptions::new().device(device);
    for full in [&["publish"][..], &["find", "publish"]] {
        let mut full = Shelf { full, ..Shelf::default() };
        let model = load(&options, &path, &mut full, Mismatch::Fail).unwrap();
        assert_eq!(model.stats().resident, Resident::Off);
        assert_eq!(full.calls, ["find", "publish", "give_up"]);
    }
    let mut shelf = Shelf { full: &["find"], ..Shelf::default() };
    let model = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
    assert_eq!(model.stats().resident, Resident::Published);
    let mut shelf = Shelf::default();
    let limited = options.vram_limit(1);
    refused(load(&limited, &path, &mut shelf, Mismatch::Fail), "INSUFFICIENT_VRAM", "limit");
    assert_eq!(shelf.calls, ["find", "give_up"]);
}

/// What a load found out about its weights is still known when they are attached.
pub(crate) fn findings_outlive_their_model(device: DeviceChoice) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = std::fs::read(model_path("fused-f16.gguf")).unwrap();
    let ranges = {
        let gguf = gguf_format::Gguf::parse(&bytes).unwrap();
        let range = |name| gguf.tensor(name).unwrap().range();
        ["blk.0.ffn_down.weight", "blk.1.ffn_up.weight"].map(range)
    };
    let [infinite, zero] = ranges.map(|range| range.start as usize..range.end as usize);
    bytes[infinite][..2].copy_from_slice(&0x7c00_u16.to_le_bytes());
    bytes[zero].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let options = LoadOptions::new().device(device);
    let mut shelf = Shelf::default();
    let model = load(&options, &path, &mut shelf, Mismatch::Fail).unwrap();
    let (found, proof) =
        (load(&options, &path, &mut shelf, Mismatch::Fail).unwrap(), model.stats());
    assert_eq!(found.stats().resident, Resident::Attached);
    assert_eq!((proof.proof.non_finite.len(), proof.proof.all_zero.len()), (1, 1));
    assert_eq!(found.stats().proof.non_finite, proof.proof.non_finite);
    assert_eq!(found.stats().proof.all_zero, proof.proof.all_zero);
    let strict = options.deny_overflow(true);
    let text = "blk.0.ffn_down.weight has 1 infinite";
    refused(load(&strict, &path, &mut shelf, Mismatch::Fail), "NON_FINITE_WEIGHTS", text);
}

/// Only shareable memory is handed over. Memory that was attached is handed over again.
pub(crate) fn models_are_handed_over(device: DeviceChoice) {
    let path = model_path("fused-k-quants.gguf");
    let load = |options: LoadOptions| Loader::new(options).load(&path, &mut go_on).unwrap();
    let mut plain = load(LoadOptions::new().device(device));
    let error = plain.hand_over().unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("INVALID_OPTION", 2));
    assert!(!plain.parts()[0].is_protected());
    let mut first = load(LoadOptions::new().device(device).shareable(true));
    assert!(!first.parts()[0].is_protected());
    let entry = first.hand_over().unwrap();
    assert!(first.parts()[0].is_protected());
    assert_eq!(first.hand_over().unwrap().manifest.parts, entry.manifest.parts);
    drop(first);
    let mut second = attach(&entry).unwrap();
    let again = second.hand_over().unwrap();
    drop((second, entry));
    assert_equal(&attach(&again).unwrap(), &plain);
}

/// A protected model can be read, compared and replaced.
pub(crate) fn protected_weights_are_read_only(device: DeviceChoice) {
    let path = model_path("fused-f16.gguf");
    let options = LoadOptions::new().device(device);
    let plain = Loader::new(options.clone()).load(&path, &mut go_on).unwrap();
    let protected = Loader::new(options.protect(true)).load(&path, &mut go_on).unwrap();
    assert!(protected.parts()[0].is_protected() && !plain.parts()[0].is_protected());
    assert_eq!(protected.stats().resident, Resident::Off);
    assert_equal(&protected, &plain);
    protected.verify_fingerprint(&plain.fingerprint().unwrap()).unwrap();
}

/// Models of several sizes replace each other, with every kind of memory. A model that was not replaced comes back.
pub(crate) fn models_replace_each_other(device: DeviceChoice) {
    let names = ["fused-f16.gguf", "fused-k-quants.gguf", "split-q8_0.gguf", "fused-f16.gguf"];
    for (shareable, protect) in [(false, false), (true, false), (true, true)] {
        for how in [Replace::ReuseMemory, Replace::KeepUntilProven] {
            let options = LoadOptions::new().device(device).shareable(shareable).protect(protect);
            let mut loader = Loader::new(options);
            let mut model = loader.load(model_path(names[0]), &mut go_on).unwrap();
            let token = CancelToken::new();
            for name in names {
                let path = model_path(name);
                model = loader.replace(model, &path, how, &mut go_on, &token).unwrap();
                let plain = Loader::new(LoadOptions::new().device(device));
                assert_equal(&model, &{ plain }.load(&path, &mut go_on).unwrap());
                assert_eq!(model.parts()[0].is_protected(), protect);
                assert_eq!(model.vram_bytes(), model.plan().device_bytes());
            }
            let missing = model_path("missing.gguf");
            let error = loader.replace(model, missing, how, &mut go_on, &token).unwrap_err();
            assert_eq!(error.error.code(), "FILE_NOT_FOUND");
            model = *error.model.unwrap();
            model.verify_residency().unwrap();

            let cancel = &mut |event: &LoadEvent<'_>| match event {
                LoadEvent::Progress { .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
            let path = model_path(names[0]);
            let error = loader.replace(model, &path, how, cancel, &token).unwrap_err();
            assert_eq!(error.error.code(), "CANCELLED");
            assert_eq!(error.model.is_some(), how == Replace::KeepUntilProven);
        }
    }
}

/// Memory that another process may use is not reused.
pub(crate) fn shared_memory_is_not_reused(device: DeviceChoice) {
    let path = model_path("fused-f16.gguf");
    let mut loader = Loader::new(LoadOptions::new().device(device).shareable(true));
    let mut model = loader.load(&path, &mut go_on).unwrap();
    let entry = model.hand_over().unwrap();
    let other = model_path("split-q8_0.gguf");
    let how = Replace::ReuseMemory;
    loader.replace(model, other, how, &mut go_on, &CancelToken::new()).unwrap();
    let plain = Loader::new(LoadOptions::new().device(device)).load(&path, &mut go_on).unwrap();
    assert_equal(&attach(&entry).unwrap(), &plain);
}

/// Expands to one `#[test]` for each of the tests that concern one device.
macro_rules! resident_suite {
    ($device:expr) => {
        crate::resident::tests! { $device;
            weights_outlive_their_model,
            a_flipped_bit_is_found,
            other_descriptors_and_manifests_are_refused,
            a_changed_file_is_loaded,
            failures_of_the_store_are_not_those_of_the_load,
            findings_outlive_their_model,
            models_are_handed_over,
            protected_weights_are_read_only,
            models_replace_each_other,
            shared_memory_is_not_reused,
        }
    };
}
pub(crate) use resident_suite;

macro_rules! tests {
    ($device:expr; $($test:ident),* $(,)?) => {
        $(#[test] fn $test() { crate::resident::$test($device); })*
    };
}
pub(crate) use tests;
