//! The side that keeps entries for other processes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::channel::{self, PROTOCOL, Received, Reply, Request};
use crate::listener::Listener;
use crate::packed::Packed;
use crate::shelf::{Client, Finding, Shelf};
use crate::systemd::{self, Notifier};
use crate::{Entry, Error, Key};

/// How a keeper works.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct KeeperOptions {
    /// An entry that no connection has used for this time is dropped. By default, entries stay.
    pub expire: Option<Duration>,
    /// What the keeper accepts.
    pub limits: Limits,
}

impl KeeperOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops entries that no connection has used for this time.
    #[must_use]
    pub fn expire(self, after: Duration) -> Self {
        Self { expire: Some(after), ..self }
    }

    /// Accepts no more than these limits.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}

/// What a keeper accepts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Entries. A claim counts as one.
    pub entries: usize,
    /// Descriptors of all entries, with one for each manifest.
    pub descriptors: usize,
}

impl Default for Limits {
    /// Together, these are fewer than the 1,024 descriptors that a process can have by default.
    fn default() -> Self {
        Self { connections: 128, entries: 64, descriptors: 512 }
    }
}

/// Keeps entries for other processes, until it is dropped.
///
/// It serves all clients on one thread and waits for none of them. It never uses the memory that it keeps.
#[derive(Debug)]
pub struct Keeper {
    listener: Listener,
    options: KeeperOptions,
    shelf: Shelf,
    clients: Clients,
    mirror: Option<Notifier>,
    /// No connection is accepted until then, because the process has too many descriptors.
    pause: Option<Instant>,
}

/// The open connections.
#[derive(Debug, Default)]
struct Clients {
    sockets: BTreeMap<Client, OwnedFd>,
    next: Client,
    /// Connections that could not be written to. They must be closed.
    lost: Vec<Client>,
}

impl Keeper {
    /// Listens at `path`. Only the user of this process and root can connect.
    ///
    /// The folder is made if it is missing. The file of a keeper that no longer runs is replaced. The file is
    /// removed when the keeper is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if another keeper listens there, or if the folder is not safe: it must belong to the user of
    /// this process or to root, and others must not be able to write to it.
    pub fn bind(path: &Path, options: KeeperOptions) -> Result<Self, Error> {
        Ok(Self::new(Listener::bind(path)?, options))
    }

    /// Serves a Unix socket of type `SOCK_SEQPACKET` that already listens, such as one of systemd.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it is no such socket.
    pub fn from_listener(listener: OwnedFd, options: KeeperOptions) -> Result<Self, Error> {
        Ok(Self::new(Listener::from_socket(listener)?, options))
    }

    fn new(listener: Listener, options: KeeperOptions) -> Self {
        let shelf = Shelf::new(options.limits);
        let clients = Clients::default();
        Self { listener, options, shelf, clients, mirror: None, pause: None }
    }

    /// Adds an entry. It replaces one with the same key.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if a limit is reached, [`Error::Manifest`] if the entry is not valid.
    pub fn insert(&mut self, entry: Entry) -> Result<(), Error> {
        self.put(Packed::new(&entry.manifest, entry.descriptors)?, None)
    }

    /// Takes over the entries of systemd's store. What this keeper keeps from now on is stored there too, so that it
    /// outlives this process.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if a limit is reached.
    pub fn mirror(&mut self, store: systemd::Store) -> Result<(), Error> {
        let (notifier, entries) = store.into_parts();
        for packed in entries {
            self.put(packed, None)?;
        }
        self.mirror = Some(notifier);
        Ok(())
    }

    /// Serves clients until `stop` is readable or closed by its other side.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the system refuses to wait or to accept connections.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<(), Error> {
        while !self.turn(stop)? {}
        Ok(())
    }

    /// Waits for something to do and does it. Returns whether to stop.
    fn turn(&mut self, stop: BorrowedFd<'_>) -> Result<bool, Error> {
        let timeout = self.expire(Instant::now());
        let accepts = self.pause.is_none();
        let clients: Vec<_> = self.clients.sockets.keys().copied().collect();

        let listener = accepts.then(|| self.listener.as_fd());
        let watched = [stop].into_iter().chain(listener);
        let watched = watched.chain(self.clients.sockets.values().map(AsFd::as_fd));
        let mut watched: Vec<_> =
            watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // A time that is too long for the system's type is no limit.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match rustix::event::poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("wait for clients")(error)),
        }
        let mut ready = watched.into_iter().map(|watched| watched.revents());
        if ready.next().is_some_and(|stop| !stop.is_empty()) {
            return Ok(true);
        }
        let has_connection = accepts && ready.next().is_some_and(|listener| !listener.is_empty());
        let mut ready: Vec<_> = clients.into_iter().zip(ready).collect();
        // Clients that have gone come first, so that others find what they left.
        ready.sort_by_key(|(_, events)| !events.contains(PollFlags::HUP));
        for (client, _) in ready.into_iter().filter(|(_, events)| !events.is_empty()) {
            self.serve(client);
            self.close_lost();
        }
        if has_connection {
            self.accept()?;
            self.close_lost();
        }
        Ok(false)
    }

    /// Drops what has expired and ends a pause that is over. Returns the time until there is more of it to do.
    fn expire(&mut self, now: Instant) -> Option<Duration> {
        self.pause = self.pause.filter(|until| *until > now);
        let pause = self.pause.map(|until| until - now);
        let Some(after) = self.options.expire else { return pause };
        while let Some(packed) = self.shelf.expire(after, now) {
            tracing::info!(key = %packed.key, bytes = packed.memory_bytes, "entry expired");
            self.forget(&packed);
        }
        pause.into_iter().chain(self.shelf.next_expiry(after, now)).min()
    }

    fn accept(&mut self) -> Result<(), Error> {
        let socket = match self.listener.accept() {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                tracing::warn!("too many descriptors: connections have to wait");
                self.pause = Some(Instant::now() + PAUSE);
                return Ok(());
            }
            Err(error) => return Err(Error::io("accept connections")(error)),
        };
        let most = self.options.limits.connections;
        let reply = match channel::untrusted_peer(socket.as_fd()) {
            Ok(None) if self.clients.sockets.len() < most => Reply::Welcome(PROTOCOL),
            Ok(None) => Reply::Full(format!("the keeper serves {most} connections at most")),
            Ok(Some(_)) | Err(_) => Reply::OtherUser,
        };
        let is_welcome = matches!(reply, Reply::Welcome(_));
        if !is_welcome {
            tracing::warn!(?reply, "client refused");
        }
        // A client that does not read its replies is dropped after a few of them.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        if channel::send(socket.as_fd(), &reply, &[]).is_ok() && is_welcome {
            self.clients.sockets.insert(self.clients.next, socket);
            self.clients.next += 1;
        }
        Ok(())
    }

    /// Answers a client's next request, if the client is still there.
    fn serve(&mut self, client: Client) {
        let Some(socket) = self.clients.sockets.get(&client) else { return };
        match channel::receive(socket.as_fd()) {
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) => self.clients.lost.push(client),
            Ok(Received::Message(request, descriptors)) => {
                if let Err(error) = self.answer(client, request, descriptors) {
                    self.refuse(client, &error);
                }
            }
            Err(error) => self.refuse(client, &error),
        }
    }

    /// Tells a client why its request is refused. Ends the connection if the client broke the protocol.
    fn refuse(&mut self, client: Client, error: &Error) {
        tracing::warn!(client, %error, "request refused");
        let text = || error.to_string().chars().take(MAX_TEXT).collect();
        match error {
            Error::Full { limit } => self.clients.send(client, &Reply::Full(limit.clone()), &[]),
            Error::Manifest(_) => self.clients.send(client, &Reply::Invalid(text()), &[]),
            _ => {
                self.clients.send(client, &Reply::Malformed(text()), &[]);
                self.clients.lost.push(client);
            }
        }
    }

    fn answer(
        &mut self,
        client: Client,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        if !matches!(request, Request::Publish) && !descriptors.is_empty() {
            return Err(Error::protocol("this request has no descriptors"));
        }
        if !matches!(request, Request::GiveUp(_)) && self.shelf.waits(client) {
            return Err(Error::protocol("a request came before the reply to the previous one"));
        }
        let clients = &mut self.clients;
        match request {
            Request::Find(key) => match self.shelf.find(&key, client)? {
                Finding::Entry(descriptors) => clients.send(client, &Reply::Entry, descriptors),
                Finding::Claimed => clients.send(client, &Reply::Claimed, &[]),
                Finding::Wait => {}
            },
            Request::Fetch(key) => match self.shelf.fetch(&key, client) {
                Some(descriptors) => clients.send(client, &Reply::Entry, descriptors),
                None => clients.send(client, &Reply::Absent, &[]),
            },
            Request::Publish => {
                self.put(Packed::check(descriptors)?, Some(client))?;
                self.clients.send(client, &Reply::Done, &[]);
            }
            Request::Remove(key) => {
                let reply = match self.shelf.remove(&key) {
                    Some(packed) => {
                        tracing::info!(%key, bytes = packed.memory_bytes, "entry dropped");
                        self.forget(&packed);
                        Reply::Done
                    }
                    None => Reply::Absent,
                };
                self.clients.send(client, &reply, &[]);
            }
            Request::GiveUp(key) => {
                if let Some(next) = self.shelf.give_up(&key, client) {
                    clients.send(next, &Reply::Claimed, &[]);
                }
                clients.send(client, &Reply::Done, &[]);
            }
            Request::List(after) => match self.shelf.next(after.as_ref(), Instant::now()) {
                Some(line) => {
                    let unused_seconds = line.unused.map(|unused| unused.as_secs());
                    let reply = Reply::Listed { users: line.users, unused_seconds };
                    clients.send(client, &reply, &line.descriptors[..1]);
                }
                None => clients.send(client, &Reply::Absent, &[]),
            },
        }
        Ok(())
    }

    /// Keeps an entry, and gives it to the clients that have waited for it.
    fn put(&mut self, packed: Packed, publisher: Option<Client>) -> Result<(), Error> {
        let (key, bytes) = (packed.key.clone(), packed.memory_bytes);
        let (old, waiting) = self.shelf.put(packed, publisher, Instant::now())?;
        tracing::info!(%key, bytes, "entry stored");
        if let Some(old) = old {
            self.forget(&old);
        }
        for client in waiting {
            if let Some(descriptors) = self.shelf.fetch(&key, client) {
                self.clients.send(client, &Reply::Entry, descriptors);
            }
        }
        self.store(&key);
        Ok(())
    }

    /// Stores an entry in the mirror.
    fn store(&self, key: &Key) {
        if let (Some(mirror), Some(packed)) = (&self.mirror, self.shelf.get(key))
            && let Err(error) = mirror.store(packed)
        {
            tracing::warn!(%key, %error, "entry not stored by systemd");
        }
    }

    /// Removes an entry from the mirror.
    fn forget(&self, packed: &Packed) {
        if let Some(mirror) = &self.mirror
            && let Err(error) = mirror.remove(packed)
        {
            tracing::warn!(key = %packed.key, %error, "entry not removed by systemd");
        }
    }

    /// Closes connections that are lost. Their claims go to the next clients, whose connections may be lost, too.
    fn close_lost(&mut self) {
        while let Some(client) = self.clients.lost.pop() {
            if self.clients.sockets.remove(&client).is_some() {
                // There may be descriptors for a connection again.
                self.pause = None;
                for next in self.shelf.leave(client, Instant::now()) {
                    self.clients.send(next, &Reply::Claimed, &[]);
                }
            }
        }
    }
}

impl Clients {
    /// Sends a reply. If the client has not read the previous ones, its connection is lost.
    fn send(&mut self, client: Client, reply: &Reply, descriptors: &[OwnedFd]) {
        let Some(socket) = self.sockets.get(&client) else { return };
        if let Err(error) = channel::send(socket.as_fd(), reply, descriptors) {
            tracing::warn!(client, %error, "client dropped: it does not take its replies");
            self.lost.push(client);
        }
    }
}

/// Without a descriptor for a connection, the listening socket stays readable: look again after this time.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes of replies that a client may leave unread, with what the kernel adds to each.
const SEND_BUFFER: usize = 8 << 10;

/// Characters of an error's text in a reply.
const MAX_TEXT: usize = 512;
