//! Getting files into the page cache, out of it, and asking what it holds.

use super::reading::{self, Bytes, Readers, Unread};
use crate::cancel::CancelToken;
use rustix::fs::{Advice, fadvise, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::path::PathBuf;

/// Places of a file that are asked about.
const PROBES: u64 = 64;

/// Reads the files once.
pub(super) fn fill(files: &[PathBuf], token: &CancelToken) -> Result<(), Unread> {
    for path in files {
        let file = File::open(path)?;
        read_first(&file, file.metadata()?.len(), token)?;
    }
    Ok(())
}

/// Leaves the first half of each file in the page cache and nothing else of it.
pub(super) fn fill_half(files: &[PathBuf], token: &CancelToken) -> Result<(), Unread> {
    drop_pages(files)?;
    for path in files {
        let file = File::open(path)?;
        // Without reading ahead of the half.
        fadvise(&file, 0, None, Advice::Random)?;
        read_first(&file, file.metadata()?.len() / 2, token)?;
    }
    Ok(())
}

fn read_first(file: &File, bytes: u64, token: &CancelToken) -> Result<(), Unread> {
    let read = |threads| {
        let readers = Readers::of_large_chunks(threads);
        reading::read(file, Bytes { start: 0, bytes }, readers, None, token).map(drop)
    };
    match read(super::cores()) {
        // Nothing is measured here, so one thread is enough.
        Err(Unread::Threads(_) | Unread::Memory(_)) => read(1),
        done => done,
    }
}

/// Drops the files' pages, after writing back what was not yet.
pub(super) fn drop_pages(files: &[PathBuf]) -> std::io::Result<()> {
    for path in files {
        let file = File::open(path)?;
        fdatasync(&file)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// When the cache is asked about a load.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    Before,
    After,
}

/// The share of the first file's pages that the cache holds, from a sample; `None` where the file
/// system does not tell.
pub(super) fn cached_share(files: &[PathBuf], moment: Moment) -> Option<f64> {
    let file = File::open(files.first()?).ok()?;
    let len = file.metadata().ok()?.len();
    // Asking about a page brings it and its neighbours in: whoever asks again asks about others.
    let start = match moment {
        Moment::Before => 0,
        Moment::After => len / PROBES / 2,
    };
    let mut cached = 0;
    for probe in 0..PROBES {
        let offset = start + len / PROBES * probe;
        let mut byte = [0];
        let mut buffers = [IoSliceMut::new(&mut byte)];
        // Which fails instead of waiting for storage.
        match preadv2(&file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(_) => cached += 1,
            Err(Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
    Some(f64::from(cached) / PROBES as f64)
}
