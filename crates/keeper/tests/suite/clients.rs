//! One client after another.

use std::time::Duration;

use keeper::{Connection, Entry, KeeperOptions, Limits, Store};

use crate::fixtures::{
    Running, claim, code, contents, entry, find, key, manifest, memory, until, watched_entry,
};

#[test]
fn an_entry_is_found_as_it_was_published_after_its_publisher_has_gone() {
    let keeper = Running::new();
    let mut publisher = keeper.connect();
    publisher.publish(&entry("a", b"weights")).unwrap();
    drop(publisher);

    for _ in 0..3 {
        let mut client = keeper.connect();
        let found = find(&mut client, "a");
        assert_eq!(found.manifest, manifest("a", 2));
        assert_eq!(contents(&found), b"weights");
        assert_eq!(found.descriptors.len(), 2);
    }
}

#[test]
fn an_entry_can_have_the_most_descriptors() {
    const MOST: usize = keeper::Manifest::MAX_DESCRIPTORS;
    let keeper = Running::new();
    let memory = (0..MOST).map(|_| memory(b"x")).collect();
    keeper.connect().publish(&Entry::new(manifest("a", MOST), memory).unwrap()).unwrap();
    assert_eq!(find(&mut keeper.connect(), "a").descriptors.len(), MOST);
}

#[test]
fn an_entry_that_was_inserted_is_found() {
    let keeper =
        Running::with(KeeperOptions::new(), |keeper| keeper.insert(entry("a", b"own")).unwrap());
    assert_eq!(contents(&find(&mut keeper.connect(), "a")), b"own");
}

#[test]
fn fetching_claims_nothing() {
    let keeper = Running::new();
    let mut client = keeper.connect();
    assert!(client.fetch(&key("a")).unwrap().is_none());
    claim(&mut keeper.connect(), "a");
    client.publish(&entry("a", b"weights")).unwrap();
    assert_eq!(contents(&client.fetch(&key("a")).unwrap().unwrap()), b"weights");
}

#[test]
fn the_list_has_all_entries_in_order_with_their_users() {
    let keeper = Running::new();
    let mut list = keeper.connect();
    assert_eq!(list.list().unwrap(), []);

    let mut publisher = keeper.connect();
    for name in ["b", "a", "c"] {
        publisher.publish(&entry(name, b"")).unwrap();
    }
    find(&mut list, "b");
    let listed = list.list().unwrap();
    let users: Vec<_> = listed.iter().map(|l| (l.manifest.key.as_str(), l.users)).collect();
    assert_eq!(users, [("a", 1), ("b", 2), ("c", 1)]);
    assert!(listed.iter().all(|listed| listed.unused_seconds.is_none()));
    assert!(listed[0].manifest.files[0].header.is_empty());
    assert!(listed[0].manifest.parts[0].digests.is_empty());
    assert_eq!(listed[0].manifest.memory_bytes(), 8192);

    drop(publisher);
    until(|| {
        let listed = list.list().unwrap();
        let used: Vec<_> = listed.iter().map(|l| (l.users, l.unused_seconds.is_some())).collect();
        used == [(0, true), (1, false), (0, true)]
    });
}

#[test]
fn an_entry_is_removed_once() {
    let keeper = Running::new();
    let mut client = keeper.connect();
    client.publish(&entry("a", b"")).unwrap();
    assert!(client.remove(&key("a")).unwrap());
    assert!(!client.remove(&key("a")).unwrap());
    claim(&mut client, "a");
}

#[test]
fn memory_is_freed_with_its_entry_and_its_users() {
    let keeper = Running::new();
    let (entry, watch) = watched_entry("a");
    keeper.connect().publish(&entry).unwrap();
    drop(entry);
    let mut client = keeper.connect();
    let used = find(&mut client, "a");
    client.remove(&key("a")).unwrap();
    // The client still has it.
    drop(used);
    watch.until_freed();
}

#[test]
fn a_new_entry_replaces_the_old_one() {
    let keeper = Running::new();
    let mut client = keeper.connect();
    let (old, watch) = watched_entry("a");
    client.publish(&old).unwrap();
    drop(old);
    client.publish(&entry("a", b"new")).unwrap();
    watch.until_freed();
    assert_eq!(contents(&find(&mut client, "a")), b"new");
    assert_eq!(client.list().unwrap().len(), 1);
}

#[test]
fn an_entry_that_no_connection_uses_expires() {
    let keeper = Running::with(KeeperOptions::new().expire(Duration::ZERO), |_| ());
    let (used, unused) = (watched_entry("used"), watched_entry("unused"));
    let mut client = keeper.connect();
    client.publish(&used.0).unwrap();
    keeper.connect().publish(&unused.0).unwrap();
    drop(unused.0);
    unused.1.until_freed();
    assert_eq!(client.list().unwrap().len(), 1);

    drop((client, used.0));
    used.1.until_freed();
}

#[test]
fn an_expiry_may_be_as_long_as_can_be() {
    let keeper = Running::with(KeeperOptions::new().expire(Duration::MAX), |keeper| {
        keeper.insert(entry("a", b"")).unwrap();
    });
    find(&mut keeper.connect(), "a");
}

#[test]
fn a_full_keeper_says_so_and_goes_on() {
    let limits = Limits { entries: 2, descriptors: 5, ..Limits::default() };
    let keeper = Running::with(KeeperOptions::new().limits(limits), |_| ());
    let mut client = keeper.connect();
    client.publish(&entry("a", b"")).unwrap();
    // Two manifests and three more would be one too many.
    assert_eq!(code(client.publish(&entry("b", b""))), "KEEPER_FULL");
    let small = Entry::new(manifest("b", 1), vec![memory(b"")]).unwrap();
    client.publish(&small).unwrap();
    // An entry may be replaced where there is no room for one more.
    client.publish(&small).unwrap();
    assert_eq!(code(client.publish(&watched_entry("c").0)), "KEEPER_FULL");
    // Weights that are loaded now could not be published.
    assert_eq!(code(client.find(&key("c"), &mut || true)), "KEEPER_FULL");
    client.remove(&key("b")).unwrap();
    claim(&mut client, "c");
    assert_eq!(code(client.publish(&small)), "KEEPER_FULL", "a claim takes room");
    assert_eq!(client.list().unwrap().len(), 1);
}

#[test]
fn more_connections_than_the_limit_are_refused() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let keeper = Running::with(KeeperOptions::new().limits(limits), |_| ());
    let (first, _second) = (keeper.connect(), keeper.connect());
    let refused = Connection::open(keeper.path());
    assert_eq!(
        refused.unwrap_err().to_string(),
        "no room: the keeper serves 2 connections at most"
    );
    drop(first);
    until(|| Connection::open(keeper.path()).is_ok());
}

#[test]
fn an_entry_that_is_not_consistent_is_not_published() {
    let keeper = Running::new();
    let mut client = keeper.connect();
    let mut one_too_few = entry("a", b"");
    one_too_few.descriptors.pop();
    assert_eq!(code(client.publish(&one_too_few)), "MANIFEST_INVALID");
    let mut no_parts = entry("a", b"");
    no_parts.manifest.parts.clear();
    assert_eq!(code(client.publish(&no_parts)), "MANIFEST_INVALID");
    assert_eq!(client.list().unwrap(), []);
}

#[test]
fn no_keeper_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    assert_eq!(code(Connection::open(&path)), "KEEPER_UNREACHABLE");
    let keeper = Running::new();
    let mut client = keeper.connect();
    drop(keeper);
    assert_eq!(code(client.list()), "KEEPER_UNREACHABLE");
    assert_eq!(code(client.publish(&entry("a", b""))), "KEEPER_UNREACHABLE");
}
