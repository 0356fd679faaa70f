//! Entries as they are kept and sent.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::sockopt;

use crate::entry::check_count;
use crate::manifest::check_size;
use crate::{Entry, Error, Key, Manifest, ManifestError};

/// No process can change memory that has all of these, and none can take them off.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The end of the name of a manifest's descriptor.
pub(crate) const MANIFEST: &str = "manifest";

/// An entry as it is kept and sent.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) key: Key,
    pub(crate) memory_bytes: u64,
    /// The descriptor of the manifest, which is in sealed memory, then those of the entry.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Packed {
    /// Packs an entry.
    pub(crate) fn new(manifest: &Manifest, descriptors: Vec<OwnedFd>) -> Result<Self, Error> {
        check_count(manifest, descriptors.len())?;
        let sealed = seal(&manifest.encode()?).map_err(Error::io("store a manifest in memory"))?;
        let descriptors = [sealed].into_iter().chain(descriptors).collect();
        Ok(Self { key: manifest.key.clone(), memory_bytes: manifest.memory_bytes(), descriptors })
    }

    /// Checks an entry that another process packed.
    pub(crate) fn check(descriptors: Vec<OwnedFd>) -> Result<Self, Error> {
        let manifest = Self::manifest(&descriptors)?;
        check_count(&manifest, descriptors.len() - 1)?;
        if descriptors.iter().any(|of| sockopt::socket_type(of).is_ok()) {
            return Err(ManifestError::Socket.into());
        }
        let memory_bytes = manifest.memory_bytes();
        Ok(Self { key: manifest.key, memory_bytes, descriptors })
    }

    /// Checks and unpacks an entry that another process packed under this key.
    pub(crate) fn open(mut descriptors: Vec<OwnedFd>, expected: &Key) -> Result<Entry, Error> {
        let manifest = Self::manifest(&descriptors)?;
        if manifest.key != *expected {
            let (expected, found) = (expected.clone(), manifest.key);
            return Err(ManifestError::OtherKey { expected, found }.into());
        }
        descriptors.remove(0);
        Ok(Entry::new(manifest, descriptors)?)
    }

    /// Reads the manifest of an entry that another process packed.
    pub(crate) fn manifest(descriptors: &[OwnedFd]) -> Result<Manifest, Error> {
        let sealed = descriptors.first().ok_or(ManifestError::NotSealed)?;
        Ok(Manifest::decode(&read_sealed(sealed.as_fd())?)?)
    }

    /// Returns the descriptors with the parts of their names in systemd's store: the manifest's last, so that an
    /// entry that is stored in part has none.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, &OwnedFd)> {
        let memory = self.descriptors.iter().skip(1).enumerate();
        let memory = memory.map(|(index, fd)| (index.to_string(), fd));
        memory.chain(self.descriptors.iter().take(1).map(|fd| (MANIFEST.to_owned(), fd)))
    }
}

/// Returns the same descriptors under other numbers.
pub(crate) fn clone_all(descriptors: &[OwnedFd]) -> Result<Vec<OwnedFd>, Error> {
    let clones = descriptors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>();
    clones.map_err(Error::io("copy a descriptor"))
}

fn seal(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create(c"phi3-manifest", flags)?);
    memory.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory.into())
}

/// Reads a manifest, if it can no longer change. Only memory has seals, so reading does not block.
fn read_sealed(memory: BorrowedFd<'_>) -> Result<Vec<u8>, Error> {
    match rustix::fs::fcntl_get_seals(memory) {
        Ok(seals) if seals.contains(SEALS) => {}
        _ => return Err(ManifestError::NotSealed.into()),
    }
    let read = || {
        let memory = File::from(memory.try_clone_to_owned()?);
        let size = memory.metadata()?.len();
        if let Err(too_large) = check_size(size) {
            return Ok(Err(too_large));
        }
        let mut bytes = vec![0; size as usize];
        memory.read_exact_at(&mut bytes, 0)?;
        Ok(Ok(bytes))
    };
    Ok(read().map_err(Error::io::<std::io::Error>("read a manifest"))??)
}
