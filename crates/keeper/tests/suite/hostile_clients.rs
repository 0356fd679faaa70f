//! Clients that break the protocol, and what they leave behind in the keeper's process.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use keeper::{Connection, Store};
use rustix::net::SocketAddrUnix;
use tempfile::TempDir;

use crate::child::{Child, Role};
use crate::fixtures::{
    code, entry, find, manifest, memory, pipe, raw_client, raw_socket, receive, seal, sealed, send,
    try_send, until, wire,
};

/// A keeper in a process of its own, whose descriptors can be counted.
struct Observed {
    keeper: Child,
    path: PathBuf,
    _folder: TempDir,
}

impl Observed {
    fn new(role: Role) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.sock");
        Self { keeper: Child::start(role, &path), path, _folder: folder }
    }

    /// Runs `attack` and checks that the keeper is as before: it has the same descriptors, and serves.
    fn withstands(&self, attack: impl FnOnce(&Self)) {
        let before = self.keeper.descriptors();
        attack(self);
        until(|| {
            // The keeper closes what it has lost when it has something to do. It may be too busy for another client.
            let _ = Connection::open(&self.path).map(|mut client| client.list());
            self.keeper.descriptors() == before
        });
        let mut client = Connection::open(&self.path).unwrap();
        assert_eq!(client.list().unwrap().len(), 0);
        client.publish(&entry("a", b"")).unwrap();
        find(&mut client, "a");
        client.remove(&"a".parse().unwrap()).unwrap();
    }
}

#[test]
fn garbage_ends_the_connection() {
    let keeper = Observed::new(Role::Keeper);
    let unknown = [0x82, 6, 0x80];
    let long_key = [&[0x82, 0, 0x81, 0x78, 200][..], &[b'k'; 200]].concat();
    let two = [wire::LIST, wire::LIST].concat();
    let messages: [&[u8]; 10] = [
        b"x",
        &[0; 4096],
        &[0xff; 4096],
        &[0x9f; 4096],
        &unknown,
        &long_key,
        &two,
        &wire::about(0, "no key"),
        &wire::about(0, ""),
        &wire::LIST[..2],
    ];
    for message in messages {
        keeper.withstands(|keeper| {
            let client = raw_client(&keeper.path);
            send(&client, message, &[]);
            let (reply, _) = receive(&client);
            assert_eq!(reply[..2], [0x82, 9], "not malformed: {message:?}");
            assert_eq!(receive(&client).0, b"", "the connection is open");
        });
    }
}

#[test]
fn messages_that_are_too_long_end_the_connection() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let client = raw_client(&keeper.path);
        send(&client, &[0x82; 4097], &[]);
        assert_eq!(receive(&client).0[..2], [0x82, 9]);
        assert_eq!(receive(&client).0, b"");
    });
}

#[test]
fn an_empty_message_ends_the_connection() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let client = raw_client(&keeper.path);
        send(&client, b"", &[memory(b"").as_fd()]);
        assert_eq!(receive(&client).0, b"");
    });
}

#[test]
fn descriptors_that_no_request_needs_are_closed() {
    let keeper = Observed::new(Role::Keeper);
    let memory = memory(b"");
    for count in [1, 253] {
        keeper.withstands(|keeper| {
            let client = raw_client(&keeper.path);
            send(&client, wire::LIST, &vec![memory.as_fd(); count]);
            assert_eq!(receive(&client).0[..2], [0x82, 9]);
            assert_eq!(receive(&client).0, b"");
        });
    }
}

/// Publishes descriptors, the first of which is said to be a manifest. Returns the number of the reply.
fn publish(client: &OwnedFd, descriptors: &[&OwnedFd]) -> u8 {
    let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    send(client, wire::PUBLISH, &descriptors);
    receive(client).0[1]
}

const INVALID: u8 = 7;

#[test]
fn manifests_that_are_something_else_are_refused() {
    let keeper = Observed::new(Role::Keeper);
    let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let bytes = manifest("a", 1).encode().unwrap();
    let oversized = File::from(memory(&bytes));
    oversized.set_len(1 << 40).unwrap();
    seal(&oversized);
    let strangers = [
        pipe().0,
        pipe().1,
        open("/"),
        open("/dev/zero"),
        open("/dev/null"),
        open("/proc/self/environ"),
        raw_socket(),
        memory(&bytes),
        oversized.into(),
        sealed(b""),
        sealed(b"phi3-res"),
        sealed(b"phi3-res\x02\x00"),
        sealed(&bytes[..bytes.len() - 1]),
        sealed(&[&bytes[..], b"\0"].concat()),
    ];
    keeper.withstands(|keeper| {
        let client = raw_client(&keeper.path);
        let memory = memory(b"");
        for stranger in &strangers {
            assert_eq!(publish(&client, &[stranger, &memory]), INVALID);
        }
        // Too few and too many.
        assert_eq!(publish(&client, &[]), INVALID);
        assert_eq!(publish(&client, &[&sealed(&bytes)]), INVALID);
        assert_eq!(publish(&client, &[&sealed(&bytes), &memory, &memory]), INVALID);
    });
}

#[test]
fn memory_may_be_any_descriptor_and_is_not_touched() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let client = raw_client(&keeper.path);
        let bytes = manifest("a", 3).encode().unwrap();
        let (read, write) = pipe();
        let directory = OwnedFd::from(File::open("/").unwrap());
        let done = publish(&client, &[&sealed(&bytes), &read, &write, &directory]);
        assert_eq!(done, wire::DONE[1]);
        Connection::open(&keeper.path).unwrap().remove(&"a".parse().unwrap()).unwrap();
    });
}

#[test]
fn a_client_cannot_give_its_connections_to_the_keeper() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let clients = [(); 3].map(|()| raw_client(&keeper.path));
        let bytes = manifest("a", 3).encode().unwrap();
        let [one, two, three] = &clients;
        assert_eq!(publish(one, &[&sealed(&bytes), one, two, three]), INVALID);
    });
}

#[test]
fn a_client_that_asks_while_it_waits_is_dropped_with_its_wait() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let (owner, impatient) = (raw_client(&keeper.path), raw_client(&keeper.path));
        send(&owner, &wire::about(0, "a"), &[]);
        assert_eq!(receive(&owner).0, wire::CLAIMED);
        send(&impatient, &wire::about(0, "a"), &[]);
        send(&impatient, &wire::about(0, "a"), &[]);
        assert_eq!(receive(&impatient).0[..2], [0x82, 9]);
        assert_eq!(receive(&impatient).0, b"");
        drop(owner);
    });
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let client = raw_client(&keeper.path);
        // The keeper closes the connection when the replies no longer fit.
        while try_send(&client, &wire::about(1, "none"), &[]).is_ok() {}
        let mut polite = Connection::open(&keeper.path).unwrap();
        assert_eq!(polite.list().unwrap(), []);
    });
}

#[test]
fn silent_clients_hold_nothing_but_their_connections() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        let silent: Vec<_> = (0..128).map(|_| raw_client(&keeper.path)).collect();
        assert_eq!(code(Connection::open(&keeper.path)), "KEEPER_FULL");
        drop(silent);
    });
}

#[test]
fn thousands_of_connections_one_after_the_other_leave_nothing() {
    let keeper = Observed::new(Role::Keeper);
    keeper.withstands(|keeper| {
        for _ in 0..3000 {
            let socket = raw_socket();
            rustix::net::connect(&socket, &SocketAddrUnix::new(&keeper.path).unwrap()).unwrap();
        }
    });
}

#[test]
fn a_keeper_without_descriptors_goes_on_when_there_are_some_again() {
    let keeper = Observed::new(Role::PoorKeeper);
    keeper.withstands(|keeper| {
        let client = raw_client(&keeper.path);
        let memory = memory(b"");
        // They do not fit into its 64, and are lost on the way.
        send(&client, wire::PUBLISH, &vec![memory.as_fd(); 253]);
        let (reply, _) = receive(&client);
        assert_eq!(reply[..2], [0x82, 6], "not full");

        // More connections than it can have; the rest wait to be accepted, or are refused.
        let crowd: Vec<_> = (0..200).map(|_| raw_socket()).collect();
        for socket in &crowd {
            rustix::io::ioctl_fionbio(socket, true).unwrap();
            // Once its backlog is full, this fails.
            let _ = rustix::net::connect(socket, &SocketAddrUnix::new(&keeper.path).unwrap());
        }
        send(&client, wire::LIST, &[]);
        assert_eq!(receive(&client).0, [0x82, 3, 0x80], "an old connection is still served");
    });
}
