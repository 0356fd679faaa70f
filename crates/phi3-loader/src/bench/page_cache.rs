//! Reads files into the page cache, drops them from it, and checks which pages it contains.

use super::reading::{self, Bytes, Readers, Unread};
use loader::CancelToken;
use rustix::fs::{Advice, fadvise, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::path::PathBuf;

/// The largest number of offsets in a file that are checked.
const MOST_PROBES: u64 = 64;

/// The smallest number of bytes for each checked offset. A check can read its page into the cache, and it
/// must not change the state of most of a small file.
const BYTES_PER_PROBE: u64 = 8 * 4096;

/// Reads each file once.
pub(super) fn fill(files: &[PathBuf], token: &CancelToken) -> Result<(), Unread> {
    for path in files {
        let file = File::open(path)?;
        read_first(&file, file.metadata()?.len(), token)?;
    }
    Ok(())
}

/// Leaves only the first half of each file in the page cache.
pub(super) fn fill_half(files: &[PathBuf], token: &CancelToken) -> Result<(), Unread> {
    drop_pages(files)?;
    for path in files {
        let file = File::open(path)?;
        // Disable read-ahead, which would go beyond the half.
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
        // This read is not measured, so one thread is enough.
        Err(Unread::Threads(_) | Unread::Memory(_)) => read(1),
        done => done,
    }
}

/// Drops the pages of the files. Writes modified pages back first.
pub(super) fn drop_pages(files: &[PathBuf]) -> std::io::Result<()> {
    for path in files {
        let file = File::open(path)?;
        fdatasync(&file)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// The time of a check of the page cache: before or after a load.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    Before,
    After,
}

/// Estimates the fraction of the first file's pages in the cache from a sample. `None` if the file system
/// does not report it.
pub(super) fn cached_share(files: &[PathBuf], moment: Moment) -> Option<f64> {
    let file = File::open(files.first()?).ok()?;
    let len = file.metadata().ok()?.len();
    fadvise(&file, 0, None, Advice::Random).ok()?;
    let probes = probes(len);
    let mut cached = 0;
    for probe in 0..probes {
        let mut byte = [0];
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let offset = offset_of(probe, probes, len, moment);
        // If the page is not cached, this read fails and does not wait for storage.
        match preadv2(&file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(_) => cached += 1,
            Err(Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
    Some(f64::from(cached) / probes as f64)
}

/// Returns the number of offsets to check. It is even, so that each half of the file has the same number.
fn probes(len: u64) -> u64 {
    (len / BYTES_PER_PROBE).clamp(2, MOST_PROBES) / 2 * 2
}

/// Returns the offset to check: the file is divided into equal parts with one offset each. A check can read its
/// page, so the second check uses other pages than the first.
fn offset_of(probe: u64, probes: u64, len: u64, moment: Moment) -> u64 {
    let part = len / probes;
    let place = match moment {
        Moment::Before => part / 4,
        Moment::After => part / 4 * 3,
    };
    part * probe + place
}

#[cfg(test)]
mod tests {
    use super::{Moment, offset_of, probes};
    use std::collections::BTreeSet;

    #[test]
    fn a_check_reads_few_pages_and_the_same_number_in_each_half() {
        for pages in [32, 100, 439, 1410, 1 << 20] {
            let len = pages * 4096 + 1;
            let count = probes(len);
            let at =
                |moment| (0..count).map(move |probe| offset_of(probe, count, len, moment) / 4096);
            let asked: BTreeSet<_> = at(Moment::Before).chain(at(Moment::After)).collect();
            assert_eq!(asked.len() as u64, 2 * count, "an own page for each, of {pages}");
            assert!(count <= pages / 8, "{count} of {pages}");
            let in_first_half = at(Moment::Before).filter(|&page| page < pages / 2).count();
            assert_eq!(in_first_half as u64, count / 2);
        }
        for len in 0..20_000 {
            let last = offset_of(probes(len) - 1, probes(len), len, Moment::After);
            assert!(last <= len, "{len}");
        }
    }
}
