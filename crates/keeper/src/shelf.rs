//! Entries, claims and who uses them. No sockets, and no clock of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::keeper::Limits;
use crate::packed::Packed;
use crate::{Error, Key};

/// A connection.
pub(crate) type Client = u64;

#[derive(Debug)]
pub(crate) struct Shelf {
    entries: BTreeMap<Key, Shelved>,
    claims: BTreeMap<Key, Claim>,
    limits: Limits,
}

#[derive(Debug)]
struct Shelved {
    packed: Packed,
    users: BTreeSet<Client>,
    /// When the last user left, or the entry came without one.
    unused_since: Instant,
}

/// A key that one client loads, and the clients that wait for it.
#[derive(Debug)]
struct Claim {
    owner: Client,
    waiting: VecDeque<Client>,
}

/// The result of [`Shelf::find`].
#[derive(Debug)]
pub(crate) enum Finding<'s> {
    Entry(&'s [OwnedFd]),
    Claimed,
    /// Another client has the claim.
    Wait,
}

/// An entry, as a list shows it.
#[derive(Debug)]
pub(crate) struct Line<'s> {
    pub(crate) descriptors: &'s [OwnedFd],
    pub(crate) users: u32,
    pub(crate) unused: Option<Duration>,
}

impl Shelf {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { entries: BTreeMap::new(), claims: BTreeMap::new(), limits }
    }

    /// Returns the entry for this client, or claims the key for it, or lets it wait for the claim's owner.
    pub(crate) fn find(&mut self, key: &Key, client: Client) -> Result<Finding<'_>, Error> {
        if self.entries.contains_key(key) {
            return Ok(self.fetch(key, client).map_or(Finding::Wait, Finding::Entry));
        }
        if let Some(claim) = self.claims.get_mut(key) {
            if claim.owner == client {
                return Ok(Finding::Claimed);
            }
            claim.waiting.push_back(client);
            return Ok(Finding::Wait);
        }
        self.check_room(key, 0)?;
        self.claims.insert(key.clone(), Claim { owner: client, waiting: VecDeque::new() });
        Ok(Finding::Claimed)
    }

    /// Returns the entry's descriptors. From now on, the client uses the entry.
    pub(crate) fn fetch(&mut self, key: &Key, client: Client) -> Option<&[OwnedFd]> {
        let entry = self.entries.get_mut(key)?;
        entry.users.insert(client);
        Some(&entry.packed.descriptors)
    }

    /// Returns the entry.
    pub(crate) fn get(&self, key: &Key) -> Option<&Packed> {
        self.entries.get(key).map(|entry| &entry.packed)
    }

    /// Checks that there is room for an entry with this number of descriptors. A claim counts as an entry, so that
    /// its owner can publish what it loads.
    fn check_room(&self, key: &Key, descriptors: usize) -> Result<(), Error> {
        let others = self.entries.keys().chain(self.claims.keys());
        let Limits { entries, descriptors: most, .. } = self.limits;
        if others.filter(|other| *other != key).count() >= entries {
            return Err(Error::Full { limit: format!("the keeper has {entries} entries at most") });
        }
        let others = self.entries.iter().filter(|(other, _)| *other != key);
        let kept: usize = others.map(|(_, entry)| entry.packed.descriptors.len()).sum();
        if kept + descriptors > most {
            return Err(Error::Full {
                limit: format!("the keeper has {most} descriptors at most"),
            });
        }
        Ok(())
    }

    /// Keeps an entry. Returns the one that it replaces, and the clients that have waited for it.
    pub(crate) fn put(
        &mut self,
        packed: Packed,
        publisher: Option<Client>,
        now: Instant,
    ) -> Result<(Option<Packed>, VecDeque<Client>), Error> {
        self.check_room(&packed.key, packed.descriptors.len())?;
        let key = packed.key.clone();
        let waiting = self.claims.remove(&key).map(|claim| claim.waiting).unwrap_or_default();
        let users = publisher.into_iter().collect();
        let old = self.entries.insert(key, Shelved { packed, users, unused_since: now });
        Ok((old.map(|old| old.packed), waiting))
    }

    /// Drops an entry. Returns it if there was one.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Packed> {
        self.entries.remove(key).map(|entry| entry.packed)
    }

    /// Ends a client's claim on a key, or its wait. Returns the client that has the claim now, if it changed.
    pub(crate) fn give_up(&mut self, key: &Key, client: Client) -> Option<Client> {
        let claim = self.claims.get_mut(key)?;
        claim.waiting.retain(|waiting| *waiting != client);
        if claim.owner != client {
            return None;
        }
        match claim.waiting.pop_front() {
            Some(next) => {
                claim.owner = next;
                Some(next)
            }
            None => {
                self.claims.remove(key);
                None
            }
        }
    }

    /// Returns whether the client waits for a claim's owner.
    pub(crate) fn waits(&self, client: Client) -> bool {
        self.claims.values().any(|claim| claim.waiting.contains(&client))
    }

    /// Forgets a client. Returns the clients that have its claims now.
    pub(crate) fn leave(&mut self, client: Client, now: Instant) -> Vec<Client> {
        for entry in self.entries.values_mut() {
            if entry.users.remove(&client) && entry.users.is_empty() {
                entry.unused_since = now;
            }
        }
        let keys: Vec<_> = self.claims.keys().cloned().collect();
        keys.iter().filter_map(|key| self.give_up(key, client)).collect()
    }

    /// Drops an entry that has been unused for this time, if there is one.
    pub(crate) fn expire(&mut self, after: Duration, now: Instant) -> Option<Packed> {
        let mut unused = self.entries.iter().filter(|(_, entry)| entry.users.is_empty());
        let since = |entry: &Shelved| now.saturating_duration_since(entry.unused_since);
        let (key, _) = unused.find(|(_, entry)| since(entry) >= after)?;
        let key = key.clone();
        self.remove(&key)
    }

    /// Returns how long it takes until the next entry expires, if none is used before.
    pub(crate) fn next_expiry(&self, after: Duration, now: Instant) -> Option<Duration> {
        let unused = self.entries.values().filter(|entry| entry.users.is_empty());
        let left = |entry: &Shelved| {
            after.saturating_sub(now.saturating_duration_since(entry.unused_since))
        };
        unused.map(left).min()
    }

    /// Returns the first entry whose key is greater than `after`.
    pub(crate) fn next(&self, after: Option<&Key>, now: Instant) -> Option<Line<'_>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (_, entry) = self.entries.range((after, Bound::Unbounded)).next()?;
        let unused = now.saturating_duration_since(entry.unused_since);
        Some(Line {
            descriptors: &entry.packed.descriptors,
            users: entry.users.len() as u32,
            unused: entry.users.is_empty().then_some(unused),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an entry without descriptors, which the shelf does not look at.
    fn packed(name: &str) -> Packed {
        Packed { key: key(name), memory_bytes: 0, descriptors: Vec::new() }
    }

    fn key(name: &str) -> Key {
        name.parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_entry_expires_when_it_has_been_unused_for_long_enough() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let after = 10 * SECOND;
        let mut shelf = Shelf::new(Limits::default());
        assert_eq!(shelf.next_expiry(after, at(0)), None);

        shelf.put(packed("a"), Some(1), at(0)).unwrap();
        shelf.put(packed("b"), None, at(3)).unwrap();
        assert_eq!(shelf.next_expiry(after, at(4)), Some(9 * SECOND));
        shelf.fetch(&key("a"), 2);
        assert!(shelf.leave(1, at(5)).is_empty());
        // Client 2 still uses `a`.
        assert!(shelf.expire(after, at(12)).is_none());
        assert_eq!(shelf.expire(after, at(13)).unwrap().key, key("b"));
        assert!(shelf.expire(after, at(100)).is_none());
        assert_eq!(shelf.next_expiry(after, at(100)), None);

        shelf.leave(2, at(100));
        assert_eq!(shelf.next(None, at(104)).unwrap().unused, Some(4 * SECOND));
        // One that comes back in time keeps it.
        shelf.fetch(&key("a"), 3);
        assert!(shelf.expire(after, at(200)).is_none());
        shelf.leave(3, at(200));
        assert_eq!(shelf.next_expiry(after, at(205)), Some(5 * SECOND));
        assert_eq!(shelf.expire(after, at(210)).unwrap().key, key("a"));
    }

    #[test]
    fn users_of_a_replaced_entry_do_not_use_the_new_one() {
        let now = Instant::now();
        let mut shelf = Shelf::new(Limits::default());
        shelf.put(packed("a"), Some(1), now).unwrap();
        shelf.put(packed("a"), Some(2), now).unwrap();
        assert_eq!(shelf.next(None, now).unwrap().users, 1);
        shelf.leave(2, now);
        assert_eq!(shelf.next(None, now).unwrap().users, 0);
    }

    #[test]
    fn claims_go_on_in_the_order_of_the_requests() {
        let now = Instant::now();
        let mut shelf = Shelf::new(Limits::default());
        for client in 1..=5 {
            shelf.find(&key("a"), client).unwrap();
        }
        assert!(shelf.waits(5) && !shelf.waits(1));
        assert_eq!(shelf.give_up(&key("a"), 3), None);
        assert_eq!(shelf.leave(1, now), [2]);
        assert_eq!(shelf.give_up(&key("a"), 2), Some(4));
        let (_, waiting) = shelf.put(packed("a"), Some(4), now).unwrap();
        assert_eq!(waiting, [5]);
        assert!(matches!(shelf.find(&key("a"), 6), Ok(Finding::Entry(_))));
    }
}
