//! A cursor over the start of a file that never reads past its bytes.

use crate::error::{Error, Item};
use crate::limits::Limits;

/// Reads little-endian fields, in order, from the first bytes of a file.
///
/// A read can fail at three ends: the end of the file (the file is truncated), the header limit (the header
/// is too long), and the end of the bytes in memory (the caller may read more).
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    /// The bytes in memory, clipped to the header limit.
    bytes: &'a [u8],
    /// Bytes read so far. Never more than `bytes.len()`.
    pos: usize,
    file_len: u64,
    max_header_bytes: u64,
}

/// How errors name the limit on the header's size.
pub(crate) const HEADER_SIZE: &str = "the header's size in bytes";

/// The reason why bytes are not available. It becomes an [`Error`] when the item is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shortage {
    offset: u64,
    needed: u64,
    cause: Cause,
}

#[derive(Debug, Clone, Copy)]
enum Cause {
    EndOfFile { available: u64 },
    HeaderLimit { limit: u64 },
    EndOfPrefix,
}

impl Shortage {
    /// Converts this to the error for the item that was being read.
    #[cold]
    pub(crate) fn while_reading(self, item: Item) -> Error {
        let Self { offset, needed, cause } = self;
        match cause {
            Cause::EndOfFile { available } => Error::Truncated { item, offset, needed, available },
            Cause::HeaderLimit { limit } => Error::Limit {
                offset,
                what: HEADER_SIZE,
                value: offset.saturating_add(needed),
                limit,
            },
            Cause::EndOfPrefix => Error::Incomplete { needed: offset.saturating_add(needed) },
        }
    }
}

impl<'a> Reader<'a> {
    /// Returns a reader of `prefix`, the start of a file of `file_len` bytes.
    pub(crate) fn new(prefix: &'a [u8], file_len: u64, limits: &Limits) -> Self {
        let limit = usize::try_from(limits.max_header_bytes).unwrap_or(usize::MAX);
        Self {
            bytes: prefix.get(..limit).unwrap_or(prefix),
            pos: 0,
            file_len,
            max_header_bytes: limits.max_header_bytes,
        }
    }

    /// Returns a reader of the same file from `offset` on, without the header limit.
    pub(crate) fn beyond_header(prefix: &'a [u8], file_len: u64, offset: u64) -> Self {
        let pos = usize::try_from(offset).unwrap_or(usize::MAX).min(prefix.len());
        Self { bytes: prefix, pos, file_len, max_header_bytes: u64::MAX }
    }

    /// Returns a reader of bytes that were parsed before.
    pub(crate) fn over_parsed_bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, pos: 0, file_len: bytes.len() as u64, max_header_bytes: u64::MAX }
    }

    /// Returns the number of bytes read so far, which is the offset in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.pos as u64
    }

    /// Returns the number of bytes to the end of the file, which may be longer than the bytes in memory.
    pub(crate) fn left_in_file(&self) -> u64 {
        self.file_len.saturating_sub(self.offset())
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.pos..).unwrap_or_default()
    }

    /// Returns up to `n` of the next bytes. The position does not change.
    pub(crate) fn peek(&self, n: usize) -> &'a [u8] {
        let rest = self.rest();
        rest.get(..n).unwrap_or(rest)
    }

    #[cold]
    fn shortage(&self, needed: u64) -> Shortage {
        let offset = self.offset();
        let available = self.left_in_file();
        let cause = if needed > available {
            Cause::EndOfFile { available }
        } else if offset.saturating_add(needed) > self.max_header_bytes {
            Cause::HeaderLimit { limit: self.max_header_bytes }
        } else {
            Cause::EndOfPrefix
        };
        Shortage { offset, needed, cause }
    }

    /// Fails if the file has fewer than `n` bytes left, in memory or not. Call this before a loop over a
    /// count from the file, to bound the loop.
    pub(crate) fn ensure_in_file(&self, n: u64) -> Result<(), Shortage> {
        if n > self.left_in_file() { Err(self.shortage(n)) } else { Ok(()) }
    }

    /// Returns the next `n` bytes.
    pub(crate) fn take(&mut self, n: u64) -> Result<&'a [u8], Shortage> {
        let taken = usize::try_from(n).ok().and_then(|n| self.rest().get(..n));
        let Some(taken) = taken else { return Err(self.shortage(n)) };
        self.pos = self.pos.saturating_add(taken.len());
        Ok(taken)
    }

    /// Returns the next `n` bytes, where `n` is the width of a field.
    #[inline]
    fn field<const N: usize>(&mut self) -> Result<[u8; N], Shortage> {
        let Some((field, _)) = self.rest().split_first_chunk::<N>() else {
            return Err(self.shortage(N as u64));
        };
        self.pos = self.pos.saturating_add(N);
        Ok(*field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Shortage> {
        self.field().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Shortage> {
        self.field().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Shortage> {
        self.field().map(u64::from_le_bytes)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Shortage> {
        self.field()
    }

    /// Reads a length, and returns that number of bytes.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Shortage> {
        let len = self.u64()?;
        self.take(len)
    }

    /// Reads a length of at most `max`, and returns that number of bytes. A length that exceeds both the file
    /// and the limit is reported as a truncated file.
    pub(crate) fn string_up_to(
        &mut self,
        max: u64,
        what: &'static str,
        item: impl Fn() -> Item,
    ) -> Result<&'a [u8], Error> {
        let offset = self.offset();
        let len = self.u64().map_err(|s| s.while_reading(item()))?;
        self.ensure_in_file(len).map_err(|s| s.while_reading(item()))?;
        if len > max {
            return Err(Error::Limit { offset, what, value: len, limit: max });
        }
        self.take(len).map_err(|s| s.while_reading(item()))
    }

    /// Skips `count` strings and returns their bytes. Parsing a vocabulary spends most of its time here, so
    /// the state of the loop is a single slice.
    pub(crate) fn skip_strings(&mut self, count: u64) -> Result<&'a [u8], Shortage> {
        // Each string takes at least its length field.
        self.ensure_in_file(count.saturating_mul(8))?;
        let start = self.rest();
        let mut rest = start;
        for _ in 0..count {
            let after = rest.split_first_chunk::<8>().and_then(|(len, tail)| {
                tail.get(usize::try_from(u64::from_le_bytes(*len)).ok()?..)
            });
            let Some(after) = after else {
                // Read the faulty string again to get the exact shortage.
                self.pos = self.bytes.len().saturating_sub(rest.len());
                return Err(match self.string() {
                    Err(shortage) => shortage,
                    Ok(string) => self.shortage(string.len() as u64),
                });
            };
            rest = after;
        }
        self.pos = self.bytes.len().saturating_sub(rest.len());
        let taken = start.len().saturating_sub(rest.len());
        Ok(start.get(..taken).unwrap_or_default())
    }

    /// Returns the bytes from `offset` to the current position.
    pub(crate) fn since(&self, offset: u64) -> &'a [u8] {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        self.bytes.get(start..self.pos).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(shortage: Shortage) -> Error {
        shortage.while_reading(Item::FixedHeader)
    }

    #[test]
    fn the_three_ends_give_different_errors() {
        let bytes = [7u8; 16];
        let mut whole = Reader::new(&bytes, 16, &Limits::default());
        assert!(matches!(
            error(whole.take(17).unwrap_err()),
            Error::Truncated { offset: 0, needed: 17, available: 16, .. }
        ));
        let mut prefix = Reader::new(&bytes, 100, &Limits::default());
        prefix.take(10).unwrap();
        assert!(matches!(error(prefix.u64().unwrap_err()), Error::Incomplete { needed: 18 }));
        assert!(matches!(
            error(prefix.take(91).unwrap_err()),
            Error::Truncated { offset: 10, needed: 91, available: 90, .. }
        ));
        let limits = Limits::default().with_max_header_bytes(12);
        let mut limited = Reader::new(&bytes, 16, &limits);
        assert!(matches!(
            error(limited.take(13).unwrap_err()),
            Error::Limit { value: 13, limit: 12, .. }
        ));
        assert_eq!(limited.take(12).unwrap().len(), 12);
    }

    #[test]
    fn a_failed_read_does_not_change_the_position() {
        let bytes = [1u8, 0, 0, 0, 0];
        let mut reader = Reader::new(&bytes, 5, &Limits::default());
        assert!(reader.u64().is_err());
        assert_eq!(reader.u32().unwrap(), 1);
        assert_eq!(reader.offset(), 4);
    }

    #[test]
    fn lengths_near_the_end_of_u64_do_not_wrap() {
        for len in [u64::MAX, u64::MAX - 7, 1 << 63, (1 << 63) - 1, 1 << 32, 1 << 31] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend([0; 32]);
            let mut reader = Reader::new(&bytes, bytes.len() as u64, &Limits::default());
            assert!(matches!(error(reader.string().unwrap_err()), Error::Truncated { .. }));
            let mut reader = Reader::new(&bytes, bytes.len() as u64, &Limits::default());
            assert!(matches!(error(reader.skip_strings(1).unwrap_err()), Error::Truncated { .. }));
            let mut reader = Reader::new(&bytes, bytes.len() as u64, &Limits::default());
            assert!(matches!(
                error(reader.skip_strings(len).unwrap_err()),
                Error::Truncated { .. }
            ));
        }
    }

    #[test]
    fn skipping_strings_reports_the_faulty_string() {
        let mut bytes = Vec::new();
        for len in [3u64, 0, 9] {
            bytes.extend(len.to_le_bytes());
            bytes.extend(vec![b'x'; len.min(3) as usize]);
        }
        let mut reader = Reader::new(&bytes, bytes.len() as u64, &Limits::default());
        assert!(matches!(
            error(reader.skip_strings(3).unwrap_err()),
            Error::Truncated { offset: 27, needed: 9, available: 3, .. }
        ));
        let mut reader = Reader::new(&bytes, bytes.len() as u64, &Limits::default());
        assert_eq!(reader.skip_strings(2).unwrap().len(), 19);
        assert_eq!(reader.offset(), 19);
    }
}
