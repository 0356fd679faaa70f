//! The open file of a load, with what is needed to notice that it changed.

use crate::error::Error;
use crate::file_identity::FileIdentity;
use cuda_sys::SourceFile;
use gguf_format::{GgufFile, Limits};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A GGUF file, all shards of it, open for reading.
pub(crate) struct Source {
    path: PathBuf,
    gguf: GgufFile,
    identities: Vec<FileIdentity>,
}

impl Source {
    /// Opens the file and proves its header.
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let gguf = GgufFile::open_with(path, limits)?;
        let identities = gguf
            .shards()
            .iter()
            .map(|shard| FileIdentity::new(shard.path(), shard.opened_as()))
            .collect();
        Ok(Self { path: path.to_owned(), gguf, identities })
    }

    /// The path that was asked for.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The proven header.
    pub(crate) fn gguf(&self) -> &GgufFile {
        &self.gguf
    }

    /// What the engine reads, in the order of the shards.
    pub(crate) fn files(&self) -> Vec<SourceFile<'_>> {
        self.gguf
            .shards()
            .iter()
            .map(|shard| SourceFile { file: shard.file().as_fd(), bytes: shard.len() })
            .collect()
    }

    /// Fails where any shard is not what it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        self.gguf
            .shards()
            .iter()
            .zip(&self.identities)
            .try_for_each(|(shard, identity)| identity.check(shard.file()))
    }
}
