//! Entries whose weights are not what they were, or are something else.

use super::{KeeperProcess, attaches, load, publishes, resident, small_model};
use keeper::{Entry, Store};
use loader::{DeviceChoice, LoadOptions, Loader, Slot};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Publishes the weights of the small model, and replaces their entry by a changed one. Returns its key.
fn replaced(keeper: &KeeperProcess, change: impl FnOnce(&mut Entry)) -> String {
    let key = publishes(&small_model(), &keeper.socket(), &[]);
    let mut connection = keeper.connect();
    let mut entry = connection.fetch(&key.parse().unwrap()).unwrap().unwrap();
    change(&mut entry);
    connection.publish(&entry).unwrap();
    key
}

/// Returns sealed memory with this content.
fn sealed(content: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = File::from(memfd_create("weights", flags).unwrap());
    memory.write_all_at(content, 0).unwrap();
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&memory, seals).unwrap();
    memory.into()
}

/// Flips a bit of the output matrix.
fn flip_a_bit(entry: &mut Entry) {
    let options = LoadOptions::new().device(DeviceChoice::Host);
    let plan = Loader::new(options).plan(small_model()).unwrap().plan;
    let start = plan.whole().slot(Slot::Output).unwrap().dest.start;
    let memory = File::from(entry.descriptors.remove(0));
    let mut content = vec![0; usize::try_from(memory.metadata().unwrap().len()).unwrap()];
    memory.read_exact_at(&mut content, 0).unwrap();
    content[usize::try_from(start).unwrap()] ^= 0x10;
    entry.descriptors.push(sealed(&content));
}

/// The tensor that [`flip_a_bit`] changes.
const CHANGED: &str = "output.weight";

#[test]
fn a_flipped_bit_is_found_and_its_tensor_named() {
    let keeper = KeeperProcess::start(&[]);
    let key = replaced(&keeper, flip_a_bit);
    let socket = keeper.socket();
    let ran = load(&small_model(), &socket, &["--json"]);
    assert_eq!(ran.code(), 9, "{}", ran.stderr());
    let failed = ran.json_lines().pop().unwrap();
    assert_eq!(failed["code"], "VERIFICATION_FAILED", "{failed}");
    assert!(failed["message"].as_str().unwrap().contains(CHANGED), "{failed}");

    for arguments in [&["verify"][..], &["verify", &key]] {
        let ran = resident(&socket, arguments);
        assert_eq!(ran.code(), 9, "{}", ran.stderr());
        assert!(ran.stdout().starts_with(&format!("wrong     {key}: ")), "{}", ran.stdout());
        assert!(ran.stdout().contains(CHANGED) && ran.stderr().contains(CHANGED));
    }
    let ran = resident(&socket, ["verify", "--json"]);
    assert_eq!(ran.code(), 9, "{}", ran.stderr());
    let entry = &ran.json_lines()[0]["entries"][0];
    assert_eq!((&entry["ok"], &entry["error"]["code"]), (&false.into(), &failed["code"]));

    // The wrong weights stay until a user decides.
    assert_eq!(publishes(&small_model(), &socket, &["--resident-reload"]), key);
    attaches(&small_model(), &socket, &[]);
    assert_eq!(resident(&socket, ["verify"]).code(), 0);
}

#[test]
fn every_entry_is_verified_although_one_is_wrong() {
    let keeper = KeeperProcess::start(&[]);
    replaced(&keeper, flip_a_bit);
    publishes(&small_model(), &keeper.socket(), &["--device=host,host"]);
    let ran = resident(&keeper.socket(), ["verify"]);
    assert_eq!(ran.code(), 9, "{}", ran.stderr());
    let mut words: Vec<_> = ran
        .stdout()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(word, _)| word)
        .collect();
    words.sort_unstable();
    assert_eq!(words, ["ok", "wrong"], "{}", ran.stdout());
}

#[test]
fn descriptors_of_other_things_are_refused() {
    let changes: [fn(&mut Entry); 4] = [
        |entry| entry.descriptors[0] = File::open("/dev/null").unwrap().into(),
        |entry| entry.descriptors[0] = sealed(b"short"),
        |entry| entry.descriptors[0] = tempfile::tempfile().unwrap().into(),
        |entry| entry.manifest.plan_digest = [0; 16],
    ];
    for change in changes {
        let keeper = KeeperProcess::start(&[]);
        replaced(&keeper, change);
        let ran = load(&small_model(), &keeper.socket(), &[]);
        assert_eq!(ran.code(), 9, "{}", ran.stderr());
        assert!(ran.stderr().starts_with("error[RESIDENT_REFUSED]: "), "{}", ran.stderr());
        publishes(&small_model(), &keeper.socket(), &["--resident-reload"]);
    }
}

#[test]
fn weights_of_a_device_that_is_not_here_are_refused() {
    let keeper = KeeperProcess::start(&[]);
    replaced(&keeper, |entry| {
        entry.manifest.parts[0].device = "GPU-00000000-0000-0000-0000-000000000000".to_owned();
    });
    let ran = resident(&keeper.socket(), ["verify"]);
    assert_eq!(ran.code(), 9, "{}", ran.stderr());
    assert!(ran.stderr().contains("RESIDENT_REFUSED"), "{}", ran.stderr());
}
