//! Keeps descriptors of device memory, so that weights outlive the process that loaded them.
//!
//! Memory that a process exports as a file descriptor stays as long as any process holds the descriptor. A **keeper** is
//! a process that holds descriptors for others. It needs no device and never uses the memory. Each
//! [`Entry`] is one model: the descriptors of its memory, and a [`Manifest`] that says what is in it.
//!
//! A worker asks a [`Store`] for the entry with a [`Key`]. It gets the entry, or the claim on the key. With the claim, it
//! loads the weights and publishes them. Other workers that ask meanwhile wait for that, so the memory is needed once.
//!
//! ```
//! use keeper::{Connection, Entry, Found, Keeper, KeeperOptions, Manifest, Store};
//! use std::os::fd::{AsFd, OwnedFd};
//!
//! # fn memory_and_manifest() -> (OwnedFd, Manifest) {
//! #     use keeper::{StoredFile, StoredIdentity, StoredPart, StoredPlacement};
//! #     let identity = StoredIdentity { device: 0, inode: 0, modified: (0, 0), changed: (0, 0) };
//! #     let header = b"GGUF".to_vec();
//! #     (std::fs::File::open("/dev/null").unwrap().into(), Manifest {
//! #         key: "8d1f0c3b52aa9e70-f16-host-1of1".parse().unwrap(),
//! #         storage: "f16".into(),
//! #         placement: StoredPlacement { mode: "none".into(), proportions: vec![], offloaded_layers: None },
//! #         parts: vec![StoredPart { device: "host".into(), device_name: "".into(), bytes: 9, descriptors: vec![4096],
//! #             digests: vec![] }],
//! #         files: vec![StoredFile { path: b"model.gguf".to_vec(), bytes: 9, identity, header }],
//! #         plan_digest: [0; 16],
//! #         created: 0,
//! #         writer: "an example".into(),
//! #         findings: Vec::new(),
//! #     })
//! # }
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("keeper.sock");
//! // One process keeps, until something can be read from `stop`.
//! let mut keeper = Keeper::bind(&path, KeeperOptions::new())?;
//! let (stop, stopper) = std::io::pipe()?;
//! let thread = std::thread::spawn(move || keeper.run(stop.as_fd()));
//!
//! // A worker finds no weights, so it loads and publishes them.
//! let key = "8d1f0c3b52aa9e70-f16-host-1of1".parse()?;
//! let mut worker = Connection::open(&path)?;
//! let Found::Claimed = worker.find(&key, &mut || true)? else { panic!("there are none yet") };
//! let (memory, manifest) = memory_and_manifest();
//! worker.publish(&Entry::new(manifest, vec![memory])?)?;
//! drop(worker);
//!
//! // Its successor gets them.
//! let mut worker = Connection::open(&path)?;
//! let Found::Entry(entry) = worker.find(&key, &mut || true)? else { panic!("they were kept") };
//! assert_eq!((entry.manifest.storage.as_str(), entry.descriptors.len()), ("f16", 1));
//! # drop(stopper);
//! # thread.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Stores
//!
//! | store | keeps entries | needs |
//! |---|---|---|
//! | [`Connection`] | in a [`Keeper`], which may be a program of its own, or a thread of a worker that hands its weights to its successor | a path for the socket |
//! | [`systemd::Store`] | in systemd, while the unit restarts | `FileDescriptorStoreMax=` in the unit |
//! | [`Connection`], to a keeper with [`Keeper::mirror`] | in both: the keeper may be restarted, too | both |
//!
//! # Leases
//!
//! A connection uses the entries that it published or received, until it is closed: keep it as long as the weights. With
//! [`KeeperOptions::expire`], an entry is dropped when no connection has used it for a while. A process that has received
//! an entry keeps its memory in any case.
//!
//! # What is trusted
//!
//! Keeper and clients trust only root and their own user. Other users cannot open the folder and the file of the socket.
//! In addition, each side asks the system for the user of the other process. Everything that comes over the socket is
//! checked: messages and manifests have a largest size, and a manifest is in memory that can no longer change when it is
//! read. A keeper waits for no client, and limits what all clients together can take ([`Limits`]).
//!
//! The descriptors of memory can be anything: only the code that maps them can find out. Nor does a manifest prove what
//! the memory contains. It has digests, which the user of an entry must compare.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod channel;
mod connection;
mod entry;
mod error;
mod keeper;
mod key;
mod listener;
mod manifest;
mod packed;
mod shelf;
pub mod systemd;

pub use connection::{Connection, Listed};
pub use entry::{Entry, Found, Store};
pub use error::Error;
pub use keeper::{Keeper, KeeperOptions, Limits};
pub use key::{InvalidKey, Key};
pub use manifest::{
    Manifest, ManifestError, StoredDigest, StoredFile, StoredFinding, StoredIdentity, StoredPart,
    StoredPlacement,
};
