//! Weights that outlive their model, in host memory.

use crate::common::{go_on, model_path};
use crate::observing::name;
use crate::resident::{Shelf, parts_outlive_their_model, resident_suite};
use keeper::{Entry, Error as KeeperError, Found, Key, ManifestError, Store};
use loader::{
    CancelToken, DeviceChoice, LoadEvent, LoadOptions, Loader, Mismatch, Resident, Verify,
};
use std::ops::ControlFlow;

resident_suite!(DeviceChoice::Host);

#[test]
fn parts_are_attached_together() {
    for count in [2, 3] {
        parts_outlive_their_model(&vec![DeviceChoice::Host; count]);
    }
}

#[test]
fn a_wait_for_another_process_can_be_cancelled() {
    /// Another process never finishes its load.
    struct Waiting;

    impl Store for Waiting {
        fn find(&mut self, _: &Key, go_on: &mut dyn FnMut() -> bool) -> Result<Found, KeeperError> {
            while go_on() {
                std::thread::yield_now();
            }
            Err(KeeperError::Cancelled)
        }

        fn publish(&mut self, _: &Entry) -> Result<(), KeeperError> {
            unreachable!()
        }

        fn remove(&mut self, _: &Key) -> Result<bool, KeeperError> {
            unreachable!()
        }

        fn give_up(&mut self, _: &Key) -> Result<(), KeeperError> {
            unreachable!()
        }
    }

    let token = CancelToken::new();
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let error = std::thread::scope(|scope| {
        let path = model_path("fused-f16.gguf");
        let load = scope
            .spawn(|| loader.load_resident(path, &mut Waiting, Mismatch::Fail, &mut go_on, &token));
        token.cancel();
        load.join().unwrap().map(drop).unwrap_err()
    });
    assert_eq!((error.code(), error.exit_code()), ("CANCELLED", 130));
}

#[test]
fn a_file_is_loaded_although_others_keep_publishing_its_copies() {
    /// Another process publishes the weights of a copy again and again.
    struct Contested(Shelf);

    impl Store for Contested {
        fn find(
            &mut self,
            key: &Key,
            go_on: &mut dyn FnMut() -> bool,
        ) -> Result<Found, KeeperError> {
            self.0.find(key, go_on)
        }

        fn publish(&mut self, entry: &Entry) -> Result<(), KeeperError> {
            self.0.publish(entry)
        }

        fn remove(&mut self, _: &Key) -> Result<bool, KeeperError> {
            Ok(true)
        }

        fn give_up(&mut self, key: &Key) -> Result<(), KeeperError> {
            self.0.give_up(key)
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    std::fs::copy(model_path("fused-f16.gguf"), &copy).unwrap();
    let options = LoadOptions::new().device(DeviceChoice::Host);
    let mut store = Contested(Shelf::default());
    for path in [&model_path("fused-f16.gguf"), &copy] {
        let mut loader = Loader::new(options.clone());
        let token = CancelToken::new();
        let loaded = loader.load_resident(path, &mut store, Mismatch::Fail, &mut go_on, &token);
        assert_eq!(loaded.unwrap().stats().resident, Resident::Published);
    }
    assert_eq!(store.0.only().manifest.files[0].path, copy.into_os_string().into_encoded_bytes());
}

#[test]
fn attaching_reports_the_comparison_with_the_digests_and_with_the_file() {
    let path = model_path("fused-f16.gguf");
    let (mut store, token) = (Shelf::default(), CancelToken::new());
    let options = LoadOptions::new().device(DeviceChoice::Host).verify(Verify::Readback);
    let mut loader = Loader::new(options);
    drop(loader.load_resident(&path, &mut store, Mismatch::Fail, &mut go_on, &token).unwrap());
    let (mut names, mut complete) = (Vec::new(), 0);
    let mut observer = |event: &LoadEvent<'_>| {
        names.push(name(event));
        complete += u32::from(
            matches!(event, LoadEvent::Compared { bytes, of_bytes, .. } if bytes == of_bytes),
        );
        ControlFlow::Continue(())
    };
    let model =
        loader.load_resident(&path, &mut store, Mismatch::Fail, &mut observer, &token).unwrap();
    assert_eq!(model.stats().resident, Resident::Attached);
    names.dedup();
    assert_eq!(names, ["opened", "planned", "allocated", "compared", "verified", "finished"]);
    assert_eq!(complete, 2);
}

#[test]
fn an_entry_of_another_version_can_be_replaced() {
    /// There is an entry of a newer version until it is removed.
    #[derive(Default)]
    struct Newer(Shelf);

    impl Store for Newer {
        fn find(
            &mut self,
            key: &Key,
            go_on: &mut dyn FnMut() -> bool,
        ) -> Result<Found, KeeperError> {
            match self.0.calls.contains(&"remove") {
                true => self.0.find(key, go_on),
                false => Err(ManifestError::Version { found: 9 }.into()),
            }
        }

        fn publish(&mut self, entry: &Entry) -> Result<(), KeeperError> {
            self.0.publish(entry)
        }

        fn remove(&mut self, key: &Key) -> Result<bool, KeeperError> {
            self.0.remove(key)
        }

        fn give_up(&mut self, key: &Key) -> Result<(), KeeperError> {
            self.0.give_up(key)
        }
    }

    let load = |store: &mut Newer, mismatch| {
        let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
        let path = model_path("fused-f16.gguf");
        loader.load_resident(path, store, mismatch, &mut go_on, &CancelToken::new())
    };
    let mut store = Newer::default();
    let error = load(&mut store, Mismatch::Fail).map(drop).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("MANIFEST_INVALID", 9));
    let model = load(&mut store, Mismatch::Reload).unwrap();
    assert_eq!(model.stats().resident, Resident::Published);
    assert_eq!(store.0.calls, ["remove", "find", "publish"]);
}

#[test]
fn no_mapping_of_protected_memory_can_be_written() {
    let options = LoadOptions::new().device(DeviceChoice::Host).protect(true);
    let model = Loader::new(options).load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    let address = model.slot(loader::Slot::OutputNorm).unwrap().address;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let permissions = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        (number(start)..number(end)).contains(&address).then(|| rest[..4].to_owned())
    });
    assert_eq!(permissions.as_deref(), Some("r--p"));
}
