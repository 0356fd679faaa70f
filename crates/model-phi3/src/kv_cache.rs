//! Memory for the key-value cache of a loaded model.

use crate::choice_words;
use crate::config::Phi3Config;

/// The element type of a key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvDtype {
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes.
    F16,
    /// Brain float, 2 bytes.
    Bf16,
    /// Any 8-bit float, 1 byte. Scales that a kernel stores separately are not counted.
    F8,
}

impl KvDtype {
    /// Returns the number of bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8 => 1,
        }
    }
}

choice_words!(KvDtype: F32 = "f32", F16 = "f16", Bf16 = "bf16", F8 = "f8");

impl Phi3Config {
    /// Returns the number of bytes of a full key-value cache: keys and values of every layer, for `batch`
    /// sequences of `context` tokens each. `None` if the number exceeds 64 bits.
    ///
    /// A sliding window, which makes a smaller cache possible, is not considered.
    #[must_use]
    pub fn kv_cache_bytes(&self, context: u64, batch: u64, dtype: KvDtype) -> Option<u64> {
        [
            u64::from(self.layers),
            u64::from(self.kv_heads),
            u64::from(self.head_dim),
            context,
            batch,
            dtype.bytes(),
        ]
        .into_iter()
        .try_fold(2_u64, u64::checked_mul)
    }
}
