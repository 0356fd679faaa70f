//! systemd's descriptor store.
//!
//! systemd can keep descriptors for a unit while the unit restarts. The unit needs `FileDescriptorStoreMax=` with
//! room for all descriptors and manifests, and `Type=notify` or `NotifyAccess=main`. systemd does not report that the
//! store is full: it then closes the descriptor, and the entry is incomplete at the next start. It also keeps only one
//! of two descriptors of the same memory.
//!
//! An entry is stored as `phi3-KEY-0`, `phi3-KEY-1` and so on, and then `phi3-KEY-manifest`.

#[allow(unsafe_code, reason = "descriptors are numbers in the environment")]
mod inherited;
mod notifier;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt;

pub(crate) use notifier::Notifier;

use crate::packed::{MANIFEST, Packed, clone_all};
use crate::{Entry, Error, Found, Key};

/// The descriptor store that systemd has for the unit of this process.
///
/// The processes of a unit run one after the other, so a claim is never refused.
#[derive(Debug)]
pub struct Store {
    notifier: Notifier,
    entries: BTreeMap<Key, Packed>,
    others: Vec<(String, OwnedFd)>,
    has_one_entry: bool,
}

impl Store {
    /// Takes what systemd gave to this process. Returns none if systemd did not start it, or does not listen to it.
    ///
    /// This takes possession of the descriptors that `LISTEN_FDS` counts. Only the first call in a process does so. No
    /// other code of the process may use them: call this before anything else that reads `LISTEN_FDS`, or use
    /// [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the environment contradicts itself, [`Error::Unreachable`] if systemd cannot be reached.
    pub fn from_environment() -> Result<Option<Self>, Error> {
        let received = inherited::take()?;
        match env::var_os(NOTIFY_SOCKET) {
            Some(notify) => Self::open(&notify, received).map(Some),
            None if received.is_empty() => Ok(None),
            None => Err(Error::protocol(
                "systemd gave descriptors to this process, but no NOTIFY_SOCKET: the unit needs \
                 `Type=notify` or `NotifyAccess=main`",
            )),
        }
    }

    /// Uses the notification socket with this name, and descriptors with the names that systemd gave them. What is left
    /// of entries that were stored in part is removed from the store.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if systemd cannot be reached.
    pub fn open(notify: &OsStr, received: Vec<(String, OwnedFd)>) -> Result<Self, Error> {
        let notifier = Notifier::open(notify)?;
        let (entries, leftovers, others) = sort(received);
        for name in leftovers {
            tracing::warn!(name, "the rest of an incomplete entry is removed from systemd's store");
            notifier.remove_name(&name)?;
        }
        Ok(Self { notifier, entries, others, has_one_entry: false })
    }

    /// Keeps one entry at a time: when a key is looked for, all entries with other keys are dropped. For a unit that has one
    /// model. Without this, the entry of an earlier model would stay for ever.
    #[must_use]
    pub fn for_one_entry(self) -> Self {
        Self { has_one_entry: true, ..self }
    }

    /// Takes the listening sockets that systemd opened for the unit, with their names.
    pub fn take_sockets(&mut self) -> Vec<(String, OwnedFd)> {
        let listens = |fd: &OwnedFd| sockopt::socket_acceptconn(fd).unwrap_or(false);
        self.others.extract_if(.., |(_, fd)| listens(fd)).collect()
    }

    /// Returns the keys of the store's entries.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    pub(crate) fn into_parts(self) -> (Notifier, impl Iterator<Item = Packed>) {
        (self.notifier, self.entries.into_values())
    }
}

impl crate::Store for Store {
    fn find(&mut self, key: &Key, _: &mut dyn FnMut() -> bool) -> Result<Found, Error> {
        if self.has_one_entry {
            let others: Vec<_> = self.keys().filter(|other| *other != key).cloned().collect();
            for other in others {
                tracing::info!(key = %other, "an entry of an earlier load is dropped");
                self.remove(&other)?;
            }
        }
        match self.entries.get(key) {
            Some(packed) => Packed::open(clone_all(&packed.descriptors)?, key).map(Found::Entry),
            None => Ok(Found::Claimed),
        }
    }

    fn publish(&mut self, entry: &Entry) -> Result<(), Error> {
        let packed = Packed::new(&entry.manifest, clone_all(&entry.descriptors)?)?;
        self.remove(&packed.key)?;
        self.notifier.store(&packed)?;
        self.entries.insert(packed.key.clone(), packed);
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<bool, Error> {
        let Some(packed) = self.entries.remove(key) else { return Ok(false) };
        self.notifier.remove(&packed)?;
        Ok(true)
    }

    fn give_up(&mut self, _: &Key) -> Result<(), Error> {
        Ok(())
    }
}

/// Tells systemd that the unit is ready, if systemd wants to know.
///
/// # Errors
///
/// [`Error::Unreachable`] if systemd cannot be reached.
pub fn ready() -> Result<(), Error> {
    let Some(notify) = env::var_os(NOTIFY_SOCKET) else { return Ok(()) };
    Notifier::open(&notify)?.ready()
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What systemd gave: entries, names of entries that are incomplete, and descriptors that are not of entries.
type Sorted = (BTreeMap<Key, Packed>, Vec<String>, Vec<(String, OwnedFd)>);

fn sort(received: Vec<(String, OwnedFd)>) -> Sorted {
    let mut found: BTreeMap<Key, Vec<(String, OwnedFd)>> = BTreeMap::new();
    let mut others = Vec::new();
    for (name, fd) in received {
        match split_name(&name) {
            Some((key, end)) => found.entry(key).or_default().push((end.to_owned(), fd)),
            None => others.push((name, fd)),
        }
    }
    let (mut entries, mut leftovers) = (BTreeMap::new(), Vec::new());
    for (key, mut parts) in found {
        // The manifest is not a number, and comes first.
        parts.sort_by_key(|(end, _)| end.parse::<usize>().ok());
        let ends: Vec<_> = parts.iter().map(|(end, _)| end.clone()).collect();
        let expected = [MANIFEST.to_owned()].into_iter().chain((0..).map(|n: u32| n.to_string()));
        let is_complete = expected.take(ends.len()).eq(ends.iter().cloned());
        match Packed::check(parts.into_iter().map(|(_, fd)| fd).collect()) {
            Ok(packed) if is_complete && packed.key == key => {
                entries.insert(key, packed);
            }
            _ => leftovers.extend(ends.iter().map(|end| name(&key, end))),
        }
    }
    (entries, leftovers, others)
}

/// Returns the name of a descriptor in the store.
fn name(key: &Key, end: &str) -> String {
    format!("{PREFIX}{key}-{end}")
}

/// Returns the key and the end of the name of a descriptor of an entry.
fn split_name(name: &str) -> Option<(Key, &str)> {
    let (key, end) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let is_number = || end.parse::<u32>().is_ok_and(|number| number.to_string() == end);
    if end == MANIFEST || is_number() { Some((key.parse().ok()?, end)) } else { None }
}

const PREFIX: &str = "phi3-";
