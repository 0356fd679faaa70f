//! Messages to systemd.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::name;
use crate::packed::Packed;
use crate::{Error, channel};

/// How long systemd may take to read a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket on which systemd receives messages of the unit's processes.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: OwnedFd,
    /// The socket's name, for errors.
    path: PathBuf,
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names: a path, or `@` and a name that is not in the file system.
    pub(super) fn open(name: &OsStr) -> Result<Self, Error> {
        let connect = || -> rustix::io::Result<OwnedFd> {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
                path => SocketAddrUnix::new(path)?,
            };
            let (unix, datagram) = (AddressFamily::UNIX, SocketType::DGRAM);
            let socket = rustix::net::socket_with(unix, datagram, SocketFlags::CLOEXEC, None)?;
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
            rustix::net::connect(&socket, &address)?;
            Ok(socket)
        };
        let path = PathBuf::from(name);
        match connect() {
            Ok(socket) => Ok(Self { socket, path }),
            Err(cause) => Err(Error::Unreachable { path, cause: Arc::new(cause.into()) }),
        }
    }

    /// Stores an entry. When this returns, systemd has it, and this process may end.
    pub(crate) fn store(&self, packed: &Packed) -> Result<(), Error> {
        for (end, descriptor) in packed.named() {
            let name = name(&packed.key, &end);
            // A descriptor of device memory has nothing to poll.
            let state = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
            self.send(&state, &[descriptor.as_fd()])?;
        }
        self.barrier()
    }

    /// Removes an entry: the manifest first, so that what may stay is known to be incomplete.
    pub(crate) fn remove(&self, packed: &Packed) -> Result<(), Error> {
        let names: Vec<_> = packed.named().map(|(end, _)| name(&packed.key, &end)).collect();
        names.iter().rev().try_for_each(|name| self.remove_name(name))?;
        // The memory is free only when systemd has closed its descriptors.
        self.barrier()
    }

    /// Removes all descriptors with this name.
    pub(super) fn remove_name(&self, name: &str) -> Result<(), Error> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    pub(super) fn ready(&self) -> Result<(), Error> {
        self.send("READY=1", &[])
    }

    /// Waits until systemd has read all messages. It does not accept messages of a process that has ended.
    fn barrier(&self) -> Result<(), Error> {
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let (read, write) = pipe.map_err(Error::io("make a pipe"))?;
        // systemd closes the descriptor when it comes to this message.
        self.send("BARRIER=1", &[write.as_fd()])?;
        drop(write);
        let timeout = Timespec::try_from(PATIENCE).ok();
        let mut watched = [PollFd::new(&read, PollFlags::empty())];
        match rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, timeout.as_ref())) {
            Ok(0) => Err(self.unreachable(Errno::TIMEDOUT)),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io("wait for systemd")(error)),
        }
    }

    fn send(&self, state: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        channel::send_bytes(self.socket.as_fd(), state.as_bytes(), descriptors)
            .map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, cause: Errno) -> Error {
        Error::Unreachable { path: self.path.clone(), cause: Arc::new(cause.into()) }
    }
}
