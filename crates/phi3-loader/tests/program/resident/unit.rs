//! A keeper that runs as a unit of systemd. The test takes the place of systemd.

use super::{attaches, publishes, small_model};
use crate::program::below_shell;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketType, bind, listen, recvmsg, socket,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tempfile::TempDir;

/// What systemd has for a unit: a socket that listens, a socket for notifications, and stored descriptors.
struct Unit {
    folder: TempDir,
    listener: OwnedFd,
    notifications: UnixDatagram,
}

impl Unit {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let address = SocketAddrUnix::new(socket_in(folder.path())).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 16).unwrap();
        let notifications = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, listener, notifications }
    }

    fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// Starts the keeper with up to two stored descriptors, and waits until it is ready.
    fn start(&self, stored: &[(String, OwnedFd)]) -> Child {
        let names: Vec<_> = stored.iter().map(|(name, _)| name.as_str()).collect();
        let names = [&["keeper.socket"], &names[..]].concat().join(":");
        // A process is started with three descriptors. The shell moves them to the numbers that systemd uses.
        let prelude = format!(
            "exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>/dev/null; export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names}",
            1 + stored.len()
        );
        let copy = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let stored = |at: usize| stored.get(at).map_or_else(Stdio::null, |(_, fd)| copy(fd));
        let mut hold = below_shell(&prelude, ["hold"]);
        hold.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        hold.stdin(copy(&self.listener)).stdout(stored(0)).stderr(stored(1));
        let process = hold.spawn().unwrap();
        while self.notification().0 != "READY=1" {}
        process
    }

    /// Receives the next notification and its descriptor.
    fn notification(&self) -> (String, Option<OwnedFd>) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(&self.notifications, &mut buffers, &mut control, flags).unwrap();
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptor = descriptors.flatten().next();
        (String::from_utf8(bytes[..message.bytes].to_vec()).unwrap(), descriptor)
    }

    /// Receives what the keeper stores for one entry, with the names of the descriptors.
    fn stored(&self) -> Vec<(String, OwnedFd)> {
        let mut stored = Vec::new();
        loop {
            let (text, descriptor) = self.notification();
            if text == "BARRIER=1" {
                return stored;
            }
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            assert!(text.starts_with("FDSTORE=1\n") && text.contains("\nFDPOLL=0"), "{text}");
            stored.push((name.unwrap().to_owned(), descriptor.unwrap()));
        }
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("keeper.sock")
}

#[test]
fn a_keeper_that_systemd_starts_again_has_its_entries() {
    let unit = Unit::new();
    let mut keeper = unit.start(&[]);
    let socket = unit.socket();
    let load = std::thread::spawn(move || publishes(&small_model(), &socket, &[]));
    let stored = unit.stored();
    let key = load.join().unwrap();
    let names: Vec<_> = stored.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [format!("phi3-{key}-0"), format!("phi3-{key}-manifest")]);
    keeper.kill().unwrap();
    keeper.wait().unwrap();

    // systemd keeps the socket, so that a load which comes now waits for the next keeper.
    let mut keeper = unit.start(&stored);
    drop(stored);
    assert_eq!(attaches(&small_model(), &unit.socket(), &[]), key);
    keeper.kill().unwrap();
    keeper.wait().unwrap();
}
