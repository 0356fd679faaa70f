//! Measures the highest rates of this machine for copies and reads.

use super::cores;
use super::document::{Limit, LimitKind, Reference, Spread};
use super::reading::{self, Bytes, Readers, Unread};
use crate::args::Bench;
use crate::text::counted;
use cuda_sys::measure::{self, UploadShape, Work, WorkShape};
use cuda_sys::{Device, DeviceKind};
use loader::{CancelToken, Error};
use std::fs::File;
use std::io::Result;
use std::path::{Path, PathBuf};

const PINNED_CHUNKS: [u64; 5] = [1 << 20, 4 << 20, 8 << 20, 16 << 20, LARGEST_PINNED_CHUNK];
const LARGEST_PINNED_CHUNK: u64 = 64 << 20;
/// Bytes of one run of pinned copies, and of reads from the page cache.
const RUN_BYTES: u64 = 2 << 30;
/// These numbers of streams and slots keep the link busy. They are small, so that a ring of the largest chunks
/// does not take much memory.
const STREAMS: u32 = 4;
const DEPTH: u32 = 2;

/// f16 values that each thread copies: 64 MiB, more than the thread's share of the caches.
const COPIED_HALVES: u64 = 32 << 20;

/// A copy within memory: the kind of its limit, its name, its description and the measured work.
type MemoryCopy = (LimitKind, &'static str, &'static str, Work);

const MEMORY_COPIES: [MemoryCopy; 2] = [
    (
        LimitKind::MemoryCopy,
        "memory copy",
        "Copies within memory; a byte counts as read and as written.",
        Work::Copy,
    ),
    (
        LimitKind::MemoryCopyToNew,
        "copy to new memory",
        "Copies to memory just allocated; a byte counts as read and as written.",
        Work::CopyToNew,
    ),
];

/// Measures copies from pinned memory to the device. On the host, measures copies within memory.
pub(super) fn device(
    arguments: &Bench,
    device: &Device,
    token: &CancelToken,
) -> std::result::Result<Vec<Limit>, Error> {
    token.check()?;
    match device.kind() {
        DeviceKind::Host => {
            MEMORY_COPIES.into_iter().map(|copy| memory_copy(arguments, device, copy)).collect()
        }
        DeviceKind::Cuda(_) => PINNED_CHUNKS
            .iter()
            .map(|&chunk_bytes| {
                token.check()?;
                let shape = upload_shape(device, chunk_bytes)?;
                let rate = measure::upload(device, shape, arguments.repeat)?;
                Ok(Limit {
                    kind: LimitKind::PinnedCopy,
                    name: format!("pinned copies, {} MiB", chunk_bytes >> 20),
                    description: "Copies from pinned host memory to the GPU in pieces of this size.",
                    chunk_bytes: Some(chunk_bytes),
                    threads: None,
                    gb_per_s: Some(rate.into()),
                    note: None,
                })
            })
            .collect(),
    }
}

/// Returns the parameters for copies of this size.
pub(super) fn upload_shape(
    device: &Device,
    chunk_bytes: u64,
) -> std::result::Result<UploadShape, Error> {
    // If the device has little memory, the runs are shorter.
    let free = device.memory()?.map_or(u64::MAX, |memory| memory.free);
    let total_bytes = RUN_BYTES.min(free / 2).max(LARGEST_PINNED_CHUNK);
    Ok(UploadShape { chunk_bytes, streams: STREAMS, depth: DEPTH, total_bytes })
}

fn memory_copy(
    arguments: &Bench,
    host: &Device,
    (kind, name, description, work): MemoryCopy,
) -> std::result::Result<Limit, Error> {
    let threads = cores();
    let shape = WorkShape { elements: COPIED_HALVES, threads };
    let rate = measure::work(host, work, shape, arguments.repeat)?;
    Ok(Limit {
        kind,
        name: format!("{name}, {}", counted(threads, "thread")),
        description,
        chunk_bytes: None,
        threads: Some(threads),
        gb_per_s: Some(rate.into()),
        note: Some("bytes read and written".to_owned()),
    })
}

/// Reads the file from the page cache with an increasing number of threads, and with `readers` threads.
pub(super) fn page_cache(
    arguments: &Bench,
    files: &[PathBuf],
    readers: Option<u32>,
    token: &CancelToken,
) -> std::result::Result<Vec<Limit>, Unread> {
    let file = File::open(largest(files)?)?;
    let part = Bytes { start: 0, bytes: file.metadata()?.len().min(RUN_BYTES) };
    let all = cores();
    let mut counts: Vec<_> = [1, 4, 8, 16].into_iter().filter(|&count| count < all).collect();
    counts.push(all);
    counts.extend(readers.filter(|readers| !counts.contains(readers)));
    counts.sort_unstable();
    counts
        .into_iter()
        .map(|threads| {
            let readers = Readers::of_large_chunks(threads);
            let rates: std::result::Result<Vec<_>, Unread> = (0..arguments.repeat)
                .map(|_| Ok(reading::read(&file, part, readers, None, token)?.gb_per_s()))
                .collect();
            Ok(Limit {
                kind: LimitKind::PageCache,
                name: format!("page cache, {}", counted(threads, "thread")),
                description: "Reads the file from the page cache: the system's copy in memory.",
                chunk_bytes: None,
                threads: Some(threads),
                gb_per_s: Some(Spread::of(rates?)),
                note: None,
            })
        })
        .collect()
}

/// Returns the limit of a load: the rate, in file bytes, if reading took no time.
pub(super) fn best(limits: &[Limit], device: DeviceKind) -> Option<Reference> {
    let (kind, share) = match device {
        DeviceKind::Cuda(_) => (LimitKind::PinnedCopy, 1.0),
        // Each byte that arrives is read once and written once, to newly allocated memory.
        DeviceKind::Host => (LimitKind::MemoryCopyToNew, 0.5),
    };
    limits
        .iter()
        .filter(|limit| limit.kind == kind)
        .filter_map(|limit| {
            let gb_per_s = limit.gb_per_s?.median * share;
            Some(Reference { name: limit.name.clone(), gb_per_s })
        })
        .max_by(|a, b| a.gb_per_s.total_cmp(&b.gb_per_s))
}

pub(super) fn largest(files: &[PathBuf]) -> Result<&Path> {
    let mut largest: Option<(u64, &Path)> = None;
    for path in files {
        let bytes = std::fs::metadata(path)?.len();
        if largest.is_none_or(|(most, _)| bytes > most) {
            largest = Some((bytes, path));
        }
    }
    largest.map(|(_, path)| path).ok_or_else(|| std::io::Error::other("the model has no file"))
}
