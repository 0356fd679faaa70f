//! The definition in `cuda/include/transfer/digest.hpp`, in Rust.

/// Returns sum and mix of a piece whose first word has the index `first` in its range.
pub(crate) fn by_definition(bytes: &[u8], first: u64) -> (u64, u64) {
    let (mut sum, mut mix) = (0_u64, 0_u64);
    for (index, word) in (first..).zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        let word = u64::from_le_bytes(padded);
        let x = word ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum = sum.wrapping_add(word);
        mix = mix.wrapping_add((x & 0xffff_ffff).wrapping_mul(x >> 32));
    }
    (sum, mix)
}
