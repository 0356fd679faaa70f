//! Lists that grow with what a file holds, and fail where there is no memory for them.

use std::collections::HashMap;
use std::hash::Hash;

use crate::error::Error;

/// Appends to a list that is `what` of a header.
pub(crate) fn push<T>(list: &mut Vec<T>, item: T, what: &'static str) -> Result<(), Error> {
    if list.len() == list.capacity() {
        // As `push` grows.
        let more = list.len().max(4);
        list.try_reserve(more).map_err(|_| out_of_memory::<T>(more, what))?;
    }
    list.push(item);
    Ok(())
}

/// Makes room for one more entry of a map that is `what` of a header.
pub(crate) fn reserve_one_in<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    what: &'static str,
) -> Result<(), Error> {
    map.try_reserve(1).map_err(|_| out_of_memory::<(K, V)>(map.len().saturating_add(1), what))
}

fn out_of_memory<T>(items: usize, what: &'static str) -> Error {
    Error::OutOfMemory { what, bytes: (items as u64).saturating_mul(size_of::<T>() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_as_they_are_filled() {
        let mut list = Vec::new();
        let mut map = HashMap::new();
        for i in 0..1000 {
            push(&mut list, i, "numbers").unwrap();
            reserve_one_in(&mut map, "numbers").unwrap();
            map.insert(i, i);
        }
        assert!(list.iter().copied().eq(0..1000) && map.len() == 1000);
        assert!(list.capacity() < 2100);
        let error = out_of_memory::<u64>(3, "numbers");
        assert!(error.to_string().contains("numbers of the header: 24 bytes"), "{error}");
    }
}
