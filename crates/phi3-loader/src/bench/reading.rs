//! Measures positioned reads of a part of a file by several threads.

use super::document::gb_per_s;
use crate::failure::Failure;
use loader::{CancelToken, Error, host_memory, threads};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

/// Alignment in bytes for direct reads, sufficient on every file system.
const ALIGNMENT: usize = 4096;

/// A part of a file.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    /// A multiple of 4 KiB, because direct reads require it.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// The number of reader threads, and the size of a read.
#[derive(Clone, Copy)]
pub(super) struct Readers {
    pub(super) threads: u32,
    /// A multiple of 4 KiB, because direct reads require it.
    pub(super) chunk_bytes: u32,
}

impl Readers {
    /// Returns readers with reads of 4 MiB, for which the cost of a system call is negligible.
    pub(super) fn of_large_chunks(threads: u32) -> Self {
        Self { threads, chunk_bytes: 4 << 20 }
    }
}

/// The bytes and the time of the reads.
#[derive(Clone, Copy)]
pub(super) struct Read {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

impl Read {
    pub(super) fn gb_per_s(self) -> f64 {
        gb_per_s(self.bytes as f64, self.seconds)
    }
}

/// The reason why a part of a file was not read.
#[derive(Debug)]
pub(super) enum Unread {
    Cancelled,
    /// Some of the threads cannot be started.
    Threads(std::io::Error),
    /// The buffers cannot be allocated.
    Memory(Error),
    /// The file cannot be read.
    File(std::io::Error),
}

impl Unread {
    /// Converts this to the failure of a command that reads the file at `path`.
    pub(super) fn of(self, path: &Path) -> Failure {
        match self {
            Self::Cancelled => Error::Cancelled.into(),
            Self::Threads(error) => Failure::Start("a measurement thread", error),
            Self::Memory(error) => Failure::Load(error),
            Self::File(error) => Failure::Read(path.to_owned(), error),
        }
    }
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        Self::File(error)
    }
}

impl From<Errno> for Unread {
    fn from(error: Errno) -> Self {
        Self::File(error.into())
    }
}

/// Reads a part of the file into buffers that are allocated before the measured time. Stops at the end of the
/// part or after the time limit. The calling thread is one of the readers.
pub(super) fn read(
    file: &File,
    part: Bytes,
    readers: Readers,
    limit: Option<Duration>,
    token: &CancelToken,
) -> Result<Read, Unread> {
    let each = u64::from(readers.chunk_bytes);
    let others = readers.threads as usize - 1;
    let all = each.saturating_add(host_memory::bytes_of_threads(others, each));
    host_memory::check(all, "reading to measure").map_err(Unread::Memory)?;
    let next = AtomicU64::new(0);
    // Set after all threads are started. They wait for each other at the barrier before the first read. If a
    // thread could not be started, it is set to `None`, and no thread reads.
    let meeting = OnceLock::<Option<Barrier>>::new();
    let chunk_bytes = readers.chunk_bytes as usize;
    let reader = || {
        let mut memory = vec![1; chunk_bytes + ALIGNMENT];
        let aligned = memory.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut memory[aligned..aligned + chunk_bytes];
        if let Some(meeting) = meeting.wait() {
            meeting.wait();
            return (Instant::now(), read_chunks(file, part, &next, buffer, limit, token));
        }
        (Instant::now(), Ok(0))
    };
    std::thread::scope(|scope| {
        let others: Result<Vec<_>, _> =
            (1..readers.threads).map(|_| threads::builder().spawn_scoped(scope, reader)).collect();
        meeting.get_or_init(|| others.is_ok().then(|| Barrier::new(readers.threads as usize)));
        let others = others.map_err(Unread::Threads)?;
        let (mut start, mut bytes) = reader();
        for other in others {
            let (started, read) = threads::joined(other);
            start = start.min(started);
            bytes = bytes.and_then(|bytes| Ok(bytes + read?));
        }
        token.check().map_err(|_| Unread::Cancelled)?;
        Ok(Read { bytes: bytes?, seconds: start.elapsed().as_secs_f64() })
    })
}

fn read_chunks(
    file: &File,
    part: Bytes,
    next: &AtomicU64,
    buffer: &mut [u8],
    limit: Option<Duration>,
    token: &CancelToken,
) -> std::io::Result<u64> {
    let start = Instant::now();
    let mut total = 0;
    while limit.is_none_or(|limit| start.elapsed() < limit) && !token.is_cancelled() {
        let offset = next.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        if offset >= part.bytes {
            break;
        }
        // Direct reads need whole pages. Do not read beyond the last page of the part, because buffered reads
        // would bring more of the file into the page cache.
        let left = usize::try_from(part.bytes - offset).unwrap_or(usize::MAX);
        let wanted = left.checked_next_multiple_of(ALIGNMENT).unwrap_or(left).min(buffer.len());
        let mut done = 0;
        while done < wanted {
            match file.read_at(&mut buffer[done..wanted], part.start + offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // A read that ends inside a page is at the end of the file. A direct read cannot continue there.
            if done % ALIGNMENT != 0 {
                break;
            }
        }
        total += done as u64;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn no_page_after_the_part_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 50_000]).unwrap();
        for (start, bytes, expected) in
            [(0, 25_000, 7 * 4096), (0, 4096, 4096), (40_960, 25_000, 50_000 - 40_960), (0, 0, 0)]
        {
            for threads in [1, 3] {
                for chunk_bytes in [4096, 8192, 4 << 20] {
                    let readers = Readers { threads, chunk_bytes };
                    let part = Bytes { start, bytes };
                    let done = read(&file, part, readers, None, &CancelToken::new()).unwrap();
                    assert_eq!(done.bytes, expected, "{start} {bytes} {threads} {chunk_bytes}");
                }
            }
        }
    }
}
