//! Digests of byte ranges.

use crate::bridge::ffi;
use std::fmt;

/// A 128-bit digest of a byte range. It detects faulty memory, wrong copies and misplaced pieces. It does
/// not protect against an attacker. `cuda/include/transfer/digest.hpp` defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest {
    /// The sum of all words. Every change of a single word changes it.
    pub sum: u64,
    /// The sum of the products of words and keys. It depends on the positions of the words.
    pub mix: u64,
}

impl From<ffi::Digest> for Digest {
    fn from(digest: ffi::Digest) -> Self {
        Self { sum: digest.sum, mix: digest.mix }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.sum, self.mix)
    }
}

/// A text that is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 32 lower-case hexadecimal digits")]
pub struct ParseDigestError;

/// Parses the text that [`Display`](fmt::Display) writes.
impl std::str::FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(ParseDigestError);
        }
        let (sum, mix) = text.split_at(16);
        let word = |digits| u64::from_str_radix(digits, 16).map_err(|_| ParseDigestError);
        Ok(Self { sum: word(sum)?, mix: word(mix)? })
    }
}

#[cfg(test)]
#[path = "../tests/conformance/digest_definition.rs"]
mod digest_definition;

#[cfg(test)]
mod tests {
    use super::digest_definition::by_definition;
    use super::{Digest, ParseDigestError};
    use crate::bridge::ffi;
    use crate::error::{Error, ErrorCode};

    #[test]
    fn a_digest_is_parsed_from_its_own_text_only() {
        let digest = Digest { sum: 0x0123_4567_89ab_cdef, mix: 7 };
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let text = digest.to_string();
        let upper = text.to_uppercase();
        for wrong in ["", &text[1..], &format!("{text}0"), &upper, &text.replacen('0', "+", 1)] {
            assert_eq!(wrong.parse::<Digest>(), Err(ParseDigestError), "{wrong}");
        }
    }

    /// The digest of a range is the sum of the digests of its pieces, so each piece must be right by itself.
    #[test]
    fn every_instruction_set_digests_like_the_definition() {
        #[cfg(target_arch = "x86_64")]
        let wide = [is_x86_feature_detected!("avx2"), is_x86_feature_detected!("avx512f")];
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [];
        let instances = 1 + wide.iter().filter(|&&runs| runs).count();
        let bytes: Vec<_> =
            (0..4100_u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        // Sizes at and beside the limits of vectors of 32 and of 64 bytes.
        for len in (0..300).chain([4096]) {
            for lead in [0, 3] {
                for first in [0, 5, 1 << 40] {
                    let piece = &bytes[lead..lead + len];
                    let digests = ffi::digest_with_each_instruction_set(piece, 8 * first).unwrap();
                    let digests: Vec<_> =
                        digests.iter().map(|digest| (digest.sum, digest.mix)).collect();
                    let want = by_definition(piece, first);
                    assert_eq!(
                        digests,
                        vec![want; instances],
                        "{len} bytes at {lead}, word {first}"
                    );
                }
            }
        }
        let error = Error::from(ffi::digest_with_each_instruction_set(&bytes, 4).err().unwrap());
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
}
