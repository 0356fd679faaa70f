//! Positioned reads of a part of a file by several threads.

use super::document::gb_per_s;
use crate::cancel::CancelToken;
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Enough for direct reads on every file system.
const ALIGNMENT: usize = 4096;

/// A part of a file.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    /// A multiple of 4 KiB, for direct reads.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Who reads, and how much at a time.
#[derive(Clone, Copy)]
pub(super) struct Readers {
    pub(super) threads: u32,
    /// A multiple of 4 KiB, for direct reads.
    pub(super) chunk_bytes: u32,
}

impl Readers {
    /// Reads so large that calls cost nothing.
    pub(super) fn of_large_chunks(threads: u32) -> Self {
        Self { threads, chunk_bytes: 4 << 20 }
    }
}

/// What reading took.
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

/// Reads a part of the file into buffers that the threads already have, until its end, until the time
/// is over, or until the token is cancelled: then the figures mean nothing.
pub(super) fn read(
    file: &File,
    part: Bytes,
    readers: Readers,
    limit: Option<Duration>,
    token: &CancelToken,
) -> Result<Read> {
    let next = AtomicU64::new(0);
    let ready = Barrier::new(readers.threads as usize);
    let chunk_bytes = readers.chunk_bytes as usize;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..readers.threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut memory = vec![1; chunk_bytes + ALIGNMENT];
                    let aligned = memory.as_ptr().align_offset(ALIGNMENT);
                    let buffer = &mut memory[aligned..aligned + chunk_bytes];
                    ready.wait();
                    (Instant::now(), read_chunks(file, part, &next, buffer, limit, token))
                })
            })
            .collect();
        let mut start = Instant::now();
        let mut bytes = 0;
        let mut result = Ok(());
        for reader in readers {
            // A panic there is a bug here; it goes on in this thread.
            let (started, read) =
                reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            start = start.min(started);
            match read {
                Ok(count) => bytes += count,
                Err(error) => result = Err(error),
            }
        }
        result.map(|()| Read { bytes, seconds: start.elapsed().as_secs_f64() })
    })
}

fn read_chunks(
    file: &File,
    part: Bytes,
    next: &AtomicU64,
    buffer: &mut [u8],
    limit: Option<Duration>,
    token: &CancelToken,
) -> Result<u64> {
    let start = Instant::now();
    let mut total = 0;
    while limit.is_none_or(|limit| start.elapsed() < limit) && !token.is_cancelled() {
        let offset = next.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        if offset >= part.bytes {
            break;
        }
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], part.start + offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // What ends off a sector is the end of the file; a direct read may not go on from there.
            if done % ALIGNMENT != 0 {
                break;
            }
        }
        total += done as u64;
    }
    Ok(total)
}
