//! Measures reads from storage.

use super::document::{Limit, LimitKind, Spread};
use super::limits::largest;
use super::page_cache;
use super::reading::{self, Bytes, Read, Readers, Unread};
use crate::args::Bench;
use crate::text::counted;
use loader::CancelToken;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Result;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes and time limit of all storage runs together.
const STORAGE_BYTES: u64 = 2_000_000_000;
const STORAGE_TIME: Duration = Duration::from_secs(5);
/// Enough parallel reads to keep storage busy. The reads are small, so that a run of a few hundred MB does
/// not end with a long wait for one of them.
const STORAGE_READERS: Readers = Readers { threads: 16, chunk_bytes: 1 << 20 };

/// Reads the file from its storage, one part in each run: with `O_DIRECT`, and in cold runs also through
/// the page cache. The runs alternate with cold loads, because the rate of storage changes within
/// minutes.
pub(super) struct StorageReads<'a> {
    files: &'a [PathBuf],
    file: File,
    /// The file, opened with `O_DIRECT`, or the error if the file system refuses that.
    direct: Result<File>,
    cold: bool,
    runs: u32,
    direct_reads: Vec<Read>,
    buffered_reads: Vec<Read>,
}

impl<'a> StorageReads<'a> {
    pub(super) fn open(arguments: &Bench, files: &'a [PathBuf]) -> Result<Self> {
        let path = largest(files)?;
        let file = File::open(path)?;
        // Write pending pages now, not during the measured time.
        rustix::fs::fdatasync(&file)?;
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
        Ok(Self {
            files,
            file,
            direct: direct.map_err(std::io::Error::from),
            cold: arguments.cold,
            runs: arguments.repeat,
            direct_reads: Vec::new(),
            buffered_reads: Vec::new(),
        })
    }

    /// Reads the part of this run. It starts at the end of the previous run's part.
    pub(super) fn add(&mut self, run: u32, token: &CancelToken) -> std::result::Result<(), Unread> {
        let part = self.part(run)?;
        if let Ok(direct) = &self.direct {
            match self.read(direct, part, token) {
                Ok(read) => self.direct_reads.push(read),
                // Some file systems accept the flag and then refuse the read.
                Err(Unread::File(error)) => self.direct = Err(error),
                Err(unread) => return Err(unread),
            }
        }
        if self.cold {
            page_cache::drop_pages(self.files)?;
            self.buffered_reads.push(self.read(&self.file, part, token)?);
        }
        Ok(())
    }

    fn part(&self, run: u32) -> Result<Bytes> {
        const PAGE: u64 = 4096;
        let len = self.file.metadata()?.len();
        let bytes = (len.min(STORAGE_BYTES) / u64::from(self.runs)).next_multiple_of(PAGE);
        let start = u64::from(run) * bytes;
        Ok(Bytes { start, bytes: bytes.min(len.saturating_sub(start)) })
    }

    fn read(
        &self,
        file: &File,
        part: Bytes,
        token: &CancelToken,
    ) -> std::result::Result<Read, Unread> {
        reading::read(file, part, STORAGE_READERS, Some(STORAGE_TIME / self.runs), token)
    }

    pub(super) fn limits(self) -> Vec<Limit> {
        let (gb_per_s, note) = match self.direct {
            Ok(_) => (Some(spread_of(&self.direct_reads)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let direct = Limit {
            kind: LimitKind::DiskDirect,
            name: format!("storage, O_DIRECT, {}", counted(STORAGE_READERS.threads, "thread")),
            description: "Reads the file from its drive, without the page cache.",
            chunk_bytes: Some(STORAGE_READERS.chunk_bytes.into()),
            threads: Some(STORAGE_READERS.threads),
            gb_per_s,
            note,
        };
        let buffered = self.cold.then(|| Limit {
            kind: LimitKind::DiskBuffered,
            name: format!("storage, buffered, {}", counted(STORAGE_READERS.threads, "thread")),
            description: "Reads the file from its drive through the page cache.",
            gb_per_s: Some(spread_of(&self.buffered_reads)),
            note: None,
            ..direct
        });
        std::iter::once(direct).chain(buffered).collect()
    }
}

fn spread_of(reads: &[Read]) -> Spread {
    // If the file is small, the last part can be empty.
    Spread::of(reads.iter().filter(|read| read.bytes != 0).map(|read| read.gb_per_s()))
}
