//! Entries, keepers and raw sockets for the tests.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use keeper::{
    Connection, Entry, Error, Found, Keeper, KeeperOptions, Key, Manifest, Store, StoredDigest,
    StoredFile, StoredIdentity, StoredPart, StoredPlacement,
};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;
use tempfile::TempDir;

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Returns a manifest of one part with so many descriptors of 4,096 bytes each.
pub(crate) fn manifest(name: &str, descriptors: usize) -> Manifest {
    Manifest {
        key: key(name),
        storage: "f16".to_owned(),
        placement: StoredPlacement {
            mode: "none".to_owned(),
            proportions: vec![3.0, 0.5],
            offloaded_layers: Some(7),
        },
        parts: vec![StoredPart {
            device: "host".to_owned(),
            device_name: "host memory".to_owned(),
            bytes: 4000 * descriptors as u64,
            descriptors: vec![4096; descriptors],
            digests: vec![StoredDigest { digest: [7; 16], bytes: 4000 }],
        }],
        files: vec![StoredFile {
            path: b"model-\xff.gguf".to_vec(),
            bytes: 1 << 33,
            identity: StoredIdentity { device: 1, inode: 2, modified: (-1, 3), changed: (4, 5) },
            header: b"GGUF".repeat(1000),
        }],
        plan_digest: [9; 16],
        created: 1_795_653_731,
        writer: "a test".to_owned(),
        findings: Vec::new(),
    }
}

/// Returns memory that starts with these bytes.
pub(crate) fn memory(contents: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(c"test", flags).unwrap();
    assert_eq!(rustix::io::write(&memory, contents).unwrap(), contents.len());
    memory
}

/// Returns sealed memory, as manifests are in.
pub(crate) fn sealed(contents: &[u8]) -> OwnedFd {
    let memory = memory(contents);
    seal(&memory);
    memory
}

/// Forbids all changes of memory.
pub(crate) fn seal(memory: &impl AsFd) {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(memory, seals).unwrap();
}

/// Returns an entry with two descriptors of memory, which start with these bytes.
pub(crate) fn entry(name: &str, contents: &[u8]) -> Entry {
    Entry::new(manifest(name, 2), vec![memory(contents), memory(b"second")]).unwrap()
}

/// Returns the first bytes of an entry's memory.
pub(crate) fn contents(entry: &Entry) -> Vec<u8> {
    let file = std::fs::File::from(entry.descriptors[0].try_clone().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns an entry whose memory is a pipe, and the pipe's other end, to see when the memory is freed.
pub(crate) fn watched_entry(name: &str) -> (Entry, Watch) {
    let (read, write) = pipe();
    (Entry::new(manifest(name, 1), vec![write]).unwrap(), Watch(read))
}

pub(crate) struct Watch(pub(crate) OwnedFd);

impl Watch {
    /// Waits until no process has the memory.
    pub(crate) fn until_freed(self) {
        let mut rest = Vec::new();
        std::fs::File::from(self.0).read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// A keeper on a thread of its own, which ends with this.
pub(crate) struct Running {
    path: PathBuf,
    _folder: TempDir,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self::with(KeeperOptions::new(), |_| ())
    }

    pub(crate) fn with(options: KeeperOptions, prepare: impl FnOnce(&mut Keeper)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.sock");
        let mut keeper = Keeper::bind(&path, options).unwrap();
        prepare(&mut keeper);
        let (stopped, stop) = pipe();
        let thread = thread::spawn(move || keeper.run(stopped.as_fd()).unwrap());
        Self { path, _folder: folder, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the keeper panicked");
    }
}

/// Tries again until it holds. A child process that another test starts has copies of all descriptors until it runs
/// its program, so what this test closes may stay open for a moment.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let mut tries = 0..100_000;
    while !holds() {
        assert!(tries.next().is_some(), "it never holds");
        thread::yield_now();
    }
}

/// Finds an entry that is there.
pub(crate) fn find(store: &mut impl Store, name: &str) -> Entry {
    match store.find(&key(name), &mut || true).unwrap() {
        Found::Entry(entry) => entry,
        Found::Claimed => panic!("there is no {name}"),
    }
}

/// Claims the key of an entry that is not there.
pub(crate) fn claim(store: &mut impl Store, name: &str) {
    let found = store.find(&key(name), &mut || panic!("another has the claim on {name}"));
    assert!(matches!(found, Ok(Found::Claimed)), "{found:?}");
}

/// Returns the code of the error.
pub(crate) fn code<T>(result: Result<T, Error>) -> &'static str {
    match result {
        Ok(_) => "no error",
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error}");
            error.code()
        }
    }
}

/// Messages of the protocol, as bytes. They must not change.
pub(crate) mod wire {
    pub(crate) const PUBLISH: &[u8] = &[0x82, 2, 0x80];
    pub(crate) const LIST: &[u8] = &[0x82, 5, 0x80];
    pub(crate) const WELCOME: &[u8] = &[0x82, 0, 0x81, 1];
    pub(crate) const ENTRY: &[u8] = &[0x82, 1, 0x80];
    pub(crate) const CLAIMED: &[u8] = &[0x82, 2, 0x80];
    pub(crate) const DONE: &[u8] = &[0x82, 4, 0x80];
    pub(crate) const LISTED: &[u8] = &[0x82, 5, 0x81, 1];

    /// Returns a request about a key: 0 find, 1 fetch, 3 remove, 4 give up.
    pub(crate) fn about(request: u8, key: &str) -> Vec<u8> {
        assert!(key.len() < 24);
        [&[0x82, request, 0x81, 0x60 + key.len() as u8], key.as_bytes()].concat()
    }
}

/// Connects without the crate's client, and takes the welcome.
pub(crate) fn raw_client(path: &Path) -> OwnedFd {
    let socket = raw_socket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    assert_eq!(receive(&socket).0, wire::WELCOME);
    socket
}

pub(crate) fn raw_socket() -> OwnedFd {
    let (unix, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::socket_with(unix, kind, SocketFlags::CLOEXEC, None).unwrap()
}

/// Sends bytes with descriptors.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    try_send(socket, bytes, descriptors).unwrap();
}

pub(crate) fn try_send(
    socket: &OwnedFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// Waits for a message. It has no bytes if the other side has closed the connection.
pub(crate) fn receive(socket: &OwnedFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    let received = match received {
        Err(rustix::io::Errno::CONNRESET) => return (Vec::new(), Vec::new()),
        received => received.unwrap(),
    };
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    bytes.truncate(received.bytes);
    (bytes, descriptors)
}

/// Returns whether the test runs as root, which tests with several users need. CI does.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: another user can only be tried by root");
    }
    is_root
}

/// A user that is not root.
pub(crate) const OTHER_USER: u32 = 65_534;
