//! A buffer for the first bytes of a source. It grows without copying its content.

use std::io;
use std::ops::Deref;

use memmap2::{MmapMut, MmapOptions};

use crate::byte_source::ByteSource;

/// A copy of the first bytes of a source.
///
/// A header with a large vocabulary takes many megabytes. Most of the time for reading it goes to page faults
/// of new memory. Therefore the addresses for the longest header are reserved at once, without memory, and a
/// long header is read into huge pages.
pub(crate) struct Prefix {
    memory: MmapMut,
    /// Number of bytes that have been read. The memory after them was never accessed and takes no pages.
    len: usize,
}

impl Prefix {
    /// Returns an empty buffer with room for `most` bytes.
    pub(crate) fn with_room_for(most: u64) -> io::Result<Self> {
        let most = usize::try_from(most).map_err(io::Error::other)?;
        let memory = MmapOptions::new().len(most).no_reserve_swap().map_anon()?;
        Ok(Self { memory, len: 0 })
    }

    /// Returns the memory that the first `len` bytes take, in bytes of whole pages.
    pub(crate) fn memory_bytes(len: u64) -> u64 {
        let page = if len >= HUGE_PAGE as u64 { HUGE_PAGE as u64 } else { 4096 };
        len.checked_next_multiple_of(page).unwrap_or(u64::MAX)
    }

    /// Reads until the buffer contains the first `len` bytes of the source, or is full.
    pub(crate) fn read_until(&mut self, source: &impl ByteSource, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE && self.len < HUGE_PAGE {
            // Small headers must not take huge pages, because a model can have a thousand shards. A kernel
            // without huge pages returns an error, and small pages are used.
            let _ = self.memory.advise(memmap2::Advice::HugePage);
        }
        let Some(missing) = self.memory.get_mut(self.len..len) else { return Ok(()) };
        source.read_exact_at(missing, self.len as u64).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "the source shrank while it was read")
            }
            _ => error,
        })?;
        self.len = len;
        Ok(())
    }
}

impl Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }
}

/// Length in bytes from which a huge page is useful.
const HUGE_PAGE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_source::OpenFile;

    fn file(bytes: &[u8]) -> OpenFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        OpenFile::open(file.path()).unwrap()
    }

    #[test]
    fn it_grows_up_to_its_capacity() {
        let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
        let file = file(&bytes);
        let mut prefix = Prefix::with_room_for(5_000_000).unwrap();
        assert!(prefix.is_empty());
        for len in [0, 1, 100_000, 4_999_999, 5_000_000, 5_000_001, 3] {
            prefix.read_until(&file, len).unwrap();
            assert!(*prefix == bytes[..prefix.len()]);
        }
        assert_eq!(prefix.len(), 5_000_000);
    }

    #[test]
    fn a_file_that_has_shrunk_is_an_error_and_not_zeros() {
        let mut prefix = Prefix::with_room_for(100).unwrap();
        let error = prefix.read_until(&file(b"only this"), 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("shrank") && prefix.is_empty());
    }

    #[test]
    fn a_capacity_of_zero_stays_empty() {
        let mut prefix = Prefix::with_room_for(0).unwrap();
        prefix.read_until(&file(b""), 0).unwrap();
        assert!(prefix.is_empty());
    }
}
