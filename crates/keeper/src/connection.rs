//! The side of a keeper's clients.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{Shutdown, SocketAddrUnix, SocketFlags};

use crate::channel::{self, PROTOCOL, Received, Reply, Request};
use crate::listener::new_socket;
use crate::packed::{Packed, clone_all};
use crate::{Entry, Error, Found, Key, Manifest, ManifestError, Store};

/// How long a keeper may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a caller that waits for another process is asked whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Entries of a list, at most.
const MAX_LISTED: usize = 4096;

/// A connection to a keeper. Entries that it published or received are in use until it is dropped.
///
/// After an error other than [`Error::Full`], [`Error::Manifest`] and [`Error::Cancelled`], the connection is closed, and
/// with it the use of its entries ends.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    path: PathBuf,
    patience: Duration,
}

/// An entry of a keeper, as [`Connection::list`] returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The entry's manifest, without the headers of files and without digests.
    pub manifest: Manifest,
    /// The number of connections that use the entry.
    pub users: u32,
    /// For how long no connection has used the entry; none if one does.
    pub unused_seconds: Option<u64>,
}

impl Connection {
    /// Connects to the keeper that listens at `path`.
    ///
    /// # Errors
    ///
    /// - [`Error::Unreachable`]: none listens there.
    /// - [`Error::OtherUser`], [`Error::Refused`]: keeper and client have different users, and the other is not root.
    /// - [`Error::Full`]: the keeper has too many connections.
    /// - [`Error::Protocol`]: what listens there is no keeper.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_within(path, PATIENCE)
    }

    fn open_within(path: &Path, patience: Duration) -> Result<Self, Error> {
        let connect = || -> rustix::io::Result<OwnedFd> {
            let socket = new_socket(SocketFlags::empty())?;
            // Also for the wait in `connect` until the keeper accepts.
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        let socket = connect().map_err(|error| unreachable(path, error.into()))?;
        if let Some(found) = channel::untrusted_peer(socket.as_fd())? {
            let own = rustix::process::geteuid().as_raw();
            return Err(Error::OtherUser { found, own });
        }
        let connection = Self { socket, path: path.to_owned(), patience };
        match connection.reply()? {
            (Reply::Welcome(PROTOCOL), _) => Ok(connection),
            (Reply::Welcome(found), _) => Err(Error::protocol(format!(
                "the keeper has version {found} of the protocol, and this program has {PROTOCOL}"
            ))),
            (reply, _) => Err(refusal(reply)),
        }
    }

    /// Returns the keeper's entries, in the order of their keys.
    ///
    /// # Errors
    ///
    /// If the keeper fails.
    pub fn list(&mut self) -> Result<Vec<Listed>, Error> {
        self.closing(|this| {
            let mut list: Vec<Listed> = Vec::new();
            while list.len() < MAX_LISTED {
                let last = list.last().map(|listed| listed.manifest.key.clone());
                this.send(&Request::List(last.clone()), &[])?;
                let (users, unused_seconds, descriptors) = match this.reply()? {
                    (Reply::Absent, _) => return Ok(list),
                    (Reply::Listed { users, unused_seconds }, descriptors) => {
                        (users, unused_seconds, descriptors)
                    }
                    (reply, _) => return Err(refusal(reply)),
                };
                let mut manifest = Packed::manifest(&descriptors)?;
                if last.is_some_and(|last| last >= manifest.key) {
                    return Err(Error::protocol("the list of entries is not in order"));
                }
                manifest.files.iter_mut().for_each(|file| file.header = Vec::new());
                manifest.parts.iter_mut().for_each(|part| part.digests = Vec::new());
                list.push(Listed { manifest, users, unused_seconds });
            }
            Err(Error::protocol(format!("the list has {MAX_LISTED} entries or more")))
        })
    }

    /// Returns the entry with this key, without claiming the key if there is none.
    ///
    /// # Errors
    ///
    /// If the keeper fails.
    pub fn fetch(&mut self, key: &Key) -> Result<Option<Entry>, Error> {
        self.closing(|this| {
            this.send(&Request::Fetch(key.clone()), &[])?;
            match this.reply()? {
                (Reply::Entry, descriptors) => Packed::open(descriptors, key).map(Some),
                (Reply::Absent, _) => Ok(None),
                (reply, _) => Err(refusal(reply)),
            }
        })
    }

    /// Ends the wait for a key, or the claim on it. If the reply to the wait crosses this request, it is dropped.
    fn withdraw(&self, key: &Key) -> Result<(), Error> {
        self.send(&Request::GiveUp(key.clone()), &[])?;
        let mut reply = self.reply()?.0;
        if reply != Reply::Done {
            reply = self.reply()?.0;
        }
        if reply == Reply::Done { Ok(()) } else { Err(refusal(reply)) }
    }

    /// Runs an exchange. If it fails, replies may still come that belong to it, so the connection is closed.
    fn closing<T>(&mut self, exchange: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        exchange(self).inspect_err(|error| {
            if !matches!(error, Error::Full { .. } | Error::Cancelled | Error::Manifest(_)) {
                // An error means that it is closed already.
                let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
            }
        })
    }

    fn send(&self, request: &Request, descriptors: &[OwnedFd]) -> Result<(), Error> {
        channel::send(self.socket.as_fd(), request, descriptors).map_err(|error| match error {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::AGAIN => {
                unreachable(&self.path, error.into())
            }
            error => Error::io("send a request to the keeper")(error),
        })
    }

    /// Waits for the next reply.
    fn reply(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        // A signal may end the wait early.
        let began = std::time::Instant::now();
        while let Some(left) = self.patience.checked_sub(began.elapsed()) {
            if let Some(reply) = self.reply_within(left)? {
                return Ok(reply);
            }
        }
        Err(unreachable(&self.path, io::ErrorKind::TimedOut.into()))
    }

    /// Waits for the next reply for a while.
    fn reply_within(&self, time: Duration) -> Result<Option<(Reply, Vec<OwnedFd>)>, Error> {
        let timeout = Timespec::try_from(time).ok();
        let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut watched, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(Error::io("wait for the keeper")(error)),
        }
        match channel::receive(self.socket.as_fd())? {
            Received::Nothing => Ok(None),
            Received::Closed => Err(unreachable(&self.path, Errno::CONNRESET.into())),
            Received::Message(reply, descriptors) => {
                let with = matches!(reply, Reply::Entry | Reply::Listed { .. });
                if with == descriptors.is_empty() {
                    return Err(Error::protocol("a reply has a wrong number of descriptors"));
                }
                Ok(Some((reply, descriptors)))
            }
        }
    }
}

impl Store for Connection {
    fn find(&mut self, key: &Key, go_on: &mut dyn FnMut() -> bool) -> Result<Found, Error> {
        self.closing(|this| {
            this.send(&Request::Find(key.clone()), &[])?;
            let reply = loop {
                if let Some(reply) = this.reply_within(ASK_EVERY)? {
                    break reply;
                }
                if !go_on() {
                    this.withdraw(key)?;
                    return Err(Error::Cancelled);
                }
            };
            match reply {
                (Reply::Entry, descriptors) => Packed::open(descriptors, key).map(Found::Entry),
                (Reply::Claimed, _) => Ok(Found::Claimed),
                (reply, _) => Err(refusal(reply)),
            }
        })
    }

    fn publish(&mut self, entry: &Entry) -> Result<(), Error> {
        let packed = Packed::new(&entry.manifest, clone_all(&entry.descriptors)?)?;
        self.closing(|this| {
            this.send(&Request::Publish, &packed.descriptors)?;
            match this.reply()? {
                (Reply::Done, _) => Ok(()),
                (reply, _) => Err(refusal(reply)),
            }
        })
    }

    fn remove(&mut self, key: &Key) -> Result<bool, Error> {
        self.closing(|this| {
            this.send(&Request::Remove(key.clone()), &[])?;
            match this.reply()? {
                (Reply::Done, _) => Ok(true),
                (Reply::Absent, _) => Ok(false),
                (reply, _) => Err(refusal(reply)),
            }
        })
    }

    fn give_up(&mut self, key: &Key) -> Result<(), Error> {
        self.closing(|this| this.withdraw(key))
    }
}

fn unreachable(path: &Path, cause: io::Error) -> Error {
    // A limit of the socket's time ends like a call that would block.
    let timed_out = cause.kind() == io::ErrorKind::WouldBlock;
    let cause = if timed_out { io::ErrorKind::TimedOut.into() } else { cause };
    Error::Unreachable { path: path.to_owned(), cause: Arc::new(cause) }
}

/// Returns the error of a reply that refuses a request.
fn refusal(reply: Reply) -> Error {
    match reply {
        Reply::Full(limit) => Error::Full { limit },
        Reply::Invalid(why) => ManifestError::Refused(why).into(),
        Reply::OtherUser => Error::Refused,
        Reply::Malformed(problem) => Error::protocol(problem),
        reply => Error::protocol(format!("{reply:?} is no answer to this request")),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{SocketAddrUnix, SocketFlags, bind, listen};

    use super::*;

    #[test]
    fn a_keeper_that_does_not_answer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.sock");
        let silent = new_socket(SocketFlags::empty()).unwrap();
        bind(&silent, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&silent, 0).unwrap();
        // The first connection is established by the system; the next ones wait for the keeper.
        for _ in 0..3 {
            let error = Connection::open_within(&path, Duration::from_millis(1)).unwrap_err();
            let Error::Unreachable { cause, .. } = error else { panic!("{error}") };
            assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
        }
    }
}
