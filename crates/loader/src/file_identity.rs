//! Notices that a file was changed while it was being loaded.

use crate::error::Error;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a file looked like when it was opened.
#[derive(Debug)]
pub(crate) struct FileIdentity {
    path: PathBuf,
    facts: Facts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl FileIdentity {
    /// Remembers the file as `opened` describes it.
    pub(crate) fn new(path: &Path, opened: &Metadata) -> Self {
        Self { path: path.to_owned(), facts: Facts::of(opened) }
    }

    /// Compares the open file, and what stands at its path, with what was opened.
    pub(crate) fn check(&self, file: &File) -> Result<(), Error> {
        let open = file.metadata().map_err(|error| self.changed(error.to_string()))?;
        let now = Facts::of(&open);
        if now.bytes != self.facts.bytes {
            let what = format!("{} bytes when it was opened, {} now", self.facts.bytes, now.bytes);
            return Err(self.changed(what));
        }
        if now != self.facts {
            return Err(self.changed("its modification time moved".to_owned()));
        }
        let at_path =
            std::fs::metadata(&self.path).map_err(|error| self.changed(error.to_string()))?;
        if Facts::of(&at_path) != self.facts {
            return Err(self.changed("another file stands at its path".to_owned()));
        }
        Ok(())
    }

    fn changed(&self, what: String) -> Error {
        Error::FileChanged { path: self.path.clone(), what }
    }
}
