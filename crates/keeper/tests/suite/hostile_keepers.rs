//! Keepers that break the protocol.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use keeper::{Connection, Found, Store};
use rustix::net::SocketAddrUnix;

use crate::fixtures::{
    Watch, code, entry, key, manifest, memory, pipe, raw_socket, receive, sealed, send, wire,
};

/// Runs a client against a keeper that answers each connection as `keeper` does.
fn with_keeper<T>(keeper: impl FnOnce(OwnedFd) + Send, client: impl FnOnce(&Path) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let listener = raw_socket();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || keeper(rustix::net::accept(&listener).unwrap()));
        client(&path)
    })
}

/// Answers the client's first request with these bytes and descriptors. Returns the code of the client's error.
fn answered<T>(
    bytes: &[u8],
    descriptors: Vec<OwnedFd>,
    ask: impl FnOnce(&mut Connection) -> Result<T, keeper::Error>,
) -> &'static str {
    let keeper = move |socket: OwnedFd| {
        send(&socket, wire::WELCOME, &[]);
        receive(&socket);
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        send(&socket, bytes, &descriptors);
        // Until the client goes.
        receive(&socket);
    };
    with_keeper(keeper, |path| code(ask(&mut Connection::open(path).unwrap())))
}

fn find(client: &mut Connection) -> Result<Found, keeper::Error> {
    client.find(&key("a"), &mut || true)
}

#[test]
fn what_is_no_keeper_is_recognised() {
    for greeting in [&b"220 mail"[..], &[0x82, 0, 0x81, 2], wire::DONE, &[0; 5000]] {
        let greet = |socket: OwnedFd| send(&socket, greeting, &[]);
        assert_eq!(with_keeper(greet, |path| code(Connection::open(path))), "KEEPER_PROTOCOL");
    }
    assert_eq!(with_keeper(drop, |path| code(Connection::open(path))), "KEEPER_UNREACHABLE");
}

#[test]
fn answers_to_other_questions_are_refused() {
    for answer in [&b"garbage"[..], &[0; 4097], wire::DONE, wire::WELCOME, &[0x82, 99, 0x80]] {
        assert_eq!(answered(answer, vec![], find), "KEEPER_PROTOCOL");
    }
    assert_eq!(answered(wire::CLAIMED, vec![], |c| c.publish(&entry("a", b""))), "KEEPER_PROTOCOL");
    assert_eq!(answered(wire::CLAIMED, vec![], |c| c.remove(&key("a"))), "KEEPER_PROTOCOL");
    assert_eq!(answered(b"", vec![], find), "KEEPER_UNREACHABLE");
}

#[test]
fn descriptors_that_are_missing_or_too_many_are_refused() {
    assert_eq!(answered(wire::ENTRY, vec![], find), "KEEPER_PROTOCOL");
    assert_eq!(answered(wire::LISTED, vec![], Connection::list), "KEEPER_PROTOCOL");
    assert_eq!(answered(wire::CLAIMED, vec![memory(b"")], find), "KEEPER_PROTOCOL");
    let good = manifest("a", 1).encode().unwrap();
    let manifest = || sealed(&good);
    let too_few = vec![manifest()];
    let too_many = vec![manifest(), memory(b""), memory(b"")];
    assert_eq!(answered(wire::ENTRY, too_few, find), "MANIFEST_INVALID");
    assert_eq!(answered(wire::ENTRY, too_many, find), "MANIFEST_INVALID");
    assert_eq!(answered(wire::ENTRY, vec![manifest(), memory(b"")], find), "no error");
}

#[test]
fn manifests_that_are_not_the_wanted_one_are_refused() {
    let good = manifest("a", 1).encode().unwrap();
    let other = manifest("b", 1).encode().unwrap();
    for manifest in [memory(&good), sealed(&other), sealed(b"junk"), pipe().0] {
        assert_eq!(answered(wire::ENTRY, vec![manifest, memory(b"")], find), "MANIFEST_INVALID");
    }
}

#[test]
fn a_list_that_never_ends_is_refused() {
    let bytes = manifest("a", 1).encode().unwrap();
    let keeper = |socket: OwnedFd| {
        send(&socket, wire::WELCOME, &[]);
        while !receive(&socket).0.is_empty() {
            send(&socket, wire::LISTED, &[sealed(&bytes).as_fd()]);
        }
    };
    let listed = with_keeper(keeper, |path| code(Connection::open(path).unwrap().list()));
    assert_eq!(listed, "KEEPER_PROTOCOL");
}

#[test]
fn what_a_hostile_keeper_sent_is_closed() {
    let (read, write) = pipe();
    assert_eq!(answered(wire::ENTRY, vec![sealed(b"junk"), write], find), "MANIFEST_INVALID");
    Watch(read).until_freed();
}

#[test]
fn after_a_wrong_answer_the_connection_is_closed() {
    let keeper = |socket: OwnedFd| {
        send(&socket, wire::WELCOME, &[]);
        receive(&socket);
        send(&socket, wire::DONE, &[]);
        assert!(receive(&socket).0.is_empty(), "the client goes on");
    };
    with_keeper(keeper, |path| {
        let mut client = Connection::open(path).unwrap();
        assert_eq!(code(find(&mut client)), "KEEPER_PROTOCOL");
        assert_eq!(code(client.list()), "KEEPER_UNREACHABLE");
    });
}

#[test]
fn an_entry_whose_manifest_cannot_be_read_can_be_removed() {
    let mut newer = manifest("a", 1).encode().unwrap();
    newer[8] += 1;
    let keeper = |socket: OwnedFd| {
        send(&socket, wire::WELCOME, &[]);
        receive(&socket);
        send(&socket, wire::ENTRY, &[sealed(&newer).as_fd(), memory(b"").as_fd()]);
        assert_eq!(receive(&socket).0, wire::about(3, "a"));
        send(&socket, wire::DONE, &[]);
    };
    with_keeper(keeper, |path| {
        let mut client = Connection::open(path).unwrap();
        assert_eq!(code(find(&mut client)), "MANIFEST_INVALID");
        assert!(client.remove(&key("a")).unwrap());
    });
}
