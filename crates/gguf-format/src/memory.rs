//! Grows lists and maps within a memory limit, and returns an error if there is no memory.

use std::collections::HashMap;
use std::hash::Hash;

use crate::error::Error;

/// Counts the memory that headers take, up to [`Limits::max_memory`](crate::Limits::max_memory).
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    used: u64,
}

impl Memory {
    /// Returns a counter with this limit and nothing used.
    pub(crate) const fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    /// Returns the number of used bytes.
    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    /// Returns the number of bytes that are left.
    pub(crate) const fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Appends to a list. `what` is the purpose of the list, for the error.
    pub(crate) fn push<T>(
        &mut self,
        list: &mut Vec<T>,
        item: T,
        what: &'static str,
    ) -> Result<(), Error> {
        if list.len() == list.capacity() {
            // The same growth as `Vec::push`.
            let more = list.len().max(4);
            let new = list.len().saturating_add(more);
            let bytes = |items: usize| (items as u64).saturating_mul(size_of::<T>() as u64);
            self.grow(bytes(list.capacity()), bytes(new), what)?;
            list.try_reserve(more).map_err(|_| Error::OutOfMemory {
                what,
                bytes: bytes(new),
                left: None,
            })?;
        }
        list.push(item);
        Ok(())
    }

    /// Reserves memory for one more entry of a map. `what` is the purpose of the map, for the error.
    pub(crate) fn reserve_one_in<K: Eq + Hash, V>(
        &mut self,
        map: &mut HashMap<K, V>,
        what: &'static str,
    ) -> Result<(), Error> {
        if map.len() == map.capacity() {
            let new = bytes_of_map::<K, V>(map.len().saturating_add(1));
            let old = if map.capacity() == 0 { 0 } else { bytes_of_map::<K, V>(map.capacity()) };
            self.grow(old, new, what)?;
            map.try_reserve(1).map_err(|_| Error::OutOfMemory { what, bytes: new, left: None })?;
        }
        Ok(())
    }

    /// Replaces `old` counted bytes by `new`. Fails if `new` bytes are not left, because both allocations exist
    /// while the content is copied.
    pub(crate) fn grow(&mut self, old: u64, new: u64, what: &'static str) -> Result<(), Error> {
        let left = self.left();
        if new > left {
            return Err(Error::OutOfMemory { what, bytes: new, left: Some(left) });
        }
        self.used = self.used.saturating_add(new.saturating_sub(old));
        Ok(())
    }
}

/// Returns the bytes of memory of the standard library's map for this number of entries: the number of slots
/// is a power of two, at most seven eighths of them are used, and each slot takes one more byte.
fn bytes_of_map<K, V>(entries: usize) -> u64 {
    let places = (entries as u64).saturating_mul(8).div_ceil(7).next_power_of_two().max(4);
    places.saturating_mul((size_of::<(K, V)>() as u64).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_maps_grow_within_the_limit() {
        let mut memory = Memory::new(1 << 20);
        let mut list = Vec::new();
        let mut map = HashMap::new();
        for i in 0..1000_u64 {
            memory.push(&mut list, i, "numbers").unwrap();
            memory.reserve_one_in(&mut map, "numbers").unwrap();
            map.insert(i, i);
        }
        assert!(list.iter().copied().eq(0..1000) && map.len() == 1000);
        assert!(list.capacity() < 2100);
        // 1024 numbers of 8 bytes, and 2048 slots of 17 bytes: enough for 1792 entries.
        assert_eq!((memory.used(), map.capacity()), (1024 * 8 + 2048 * 17, 1792));
        assert_eq!(memory.left(), (1 << 20) - memory.used());
    }

    #[test]
    fn memory_above_the_limit_is_not_requested_from_the_system() {
        let mut memory = Memory::new(100);
        let mut list = Vec::new();
        let refused = (0..).find_map(|i: u64| memory.push(&mut list, i, "numbers").err());
        // The list has used 32 bytes for 4 numbers. 8 numbers take 64 bytes, and both exist while they
        // are copied.
        assert_eq!((list.len(), memory.used()), (8, 64));
        let text = refused.unwrap().to_string();
        assert!(
            text.contains("numbers of the header: 128 bytes required, 36 bytes left"),
            "{text}"
        );
        let mut map = HashMap::<u64, u64>::new();
        assert!(memory.reserve_one_in(&mut map, "numbers").is_err() && map.capacity() == 0);
    }
}
