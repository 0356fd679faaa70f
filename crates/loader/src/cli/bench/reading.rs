//! Positioned reads of a part of a file by several threads.

use super::document::gb_per_s;
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So large that calls cost nothing, and a multiple of what direct reads must be aligned to.
const CHUNK_BYTES: u64 = 4 << 20;

/// Enough for direct reads on every file system.
const ALIGNMENT: usize = 4096;

/// A part of a file.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    /// A multiple of 4 KiB, for direct reads.
    pub(super) start: u64,
    pub(super) bytes: u64,
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

/// Reads a part of the file into buffers that the threads already have, until its end or until the
/// time is over.
pub(super) fn read(
    file: &File,
    part: Bytes,
    threads: u32,
    limit: Option<Duration>,
) -> Result<Read> {
    let next = AtomicU64::new(0);
    let ready = Barrier::new(threads as usize);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut memory = vec![1; CHUNK_BYTES as usize + ALIGNMENT];
                    let aligned = memory.as_ptr().align_offset(ALIGNMENT);
                    let buffer = &mut memory[aligned..aligned + CHUNK_BYTES as usize];
                    ready.wait();
                    (Instant::now(), read_chunks(file, part, &next, buffer, limit))
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
) -> Result<u64> {
    let start = Instant::now();
    let mut total = 0;
    while limit.is_none_or(|limit| start.elapsed() < limit) {
        let offset = next.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
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
