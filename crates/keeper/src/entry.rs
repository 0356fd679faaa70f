//! Entries, and where they are kept.

use std::os::fd::OwnedFd;

use crate::{Error, Key, Manifest, ManifestError};

/// A manifest with the descriptors of the memory it describes.
#[derive(Debug)]
pub struct Entry {
    /// The description.
    pub manifest: Manifest,
    /// A descriptor for each element of [`descriptors`](crate::StoredPart::descriptors) of every part, in order.
    pub descriptors: Vec<OwnedFd>,
}

impl Entry {
    /// Returns an entry.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Descriptors`] if the manifest has another number of descriptors.
    pub fn new(manifest: Manifest, descriptors: Vec<OwnedFd>) -> Result<Self, ManifestError> {
        check_count(&manifest, descriptors.len())?;
        Ok(Self { manifest, descriptors })
    }
}

/// Refuses a number of descriptors that is not the manifest's.
pub(crate) fn check_count(manifest: &Manifest, found: usize) -> Result<(), ManifestError> {
    let expected = manifest.descriptors();
    if expected == found { Ok(()) } else { Err(ManifestError::Descriptors { expected, found }) }
}

/// What [`Store::find`] found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once a load")]
pub enum Found {
    /// The entry.
    Entry(Entry),
    /// There is none. The caller has the claim on the key: it loads the weights and publishes them. Others that
    /// look for the key wait until it has published, or has given up.
    Claimed,
}

/// A place where entries are kept.
pub trait Store {
    /// Returns the entry with this key, or claims the key.
    ///
    /// While another process has the claim, `go_on` is called at least every 50 ms.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if `go_on` returns false, and others if the store fails.
    fn find(&mut self, key: &Key, go_on: &mut dyn FnMut() -> bool) -> Result<Found, Error>;

    /// Stores an entry. It replaces one with the same key.
    ///
    /// # Errors
    ///
    /// If the store has no room or fails.
    fn publish(&mut self, entry: &Entry) -> Result<(), Error>;

    /// Drops the entry with this key. Returns whether there was one. Processes that use it keep their memory.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn remove(&mut self, key: &Key) -> Result<bool, Error>;

    /// Ends this caller's claim on a key, so that another process may load the weights.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn give_up(&mut self, key: &Key) -> Result<(), Error>;
}
