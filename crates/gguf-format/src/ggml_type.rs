//! The tensor element types of ggml. The enum and its functions are generated from one table.

use std::fmt;
use std::str::FromStr;

use crate::escape::escape;

/// Generates the enum and every function from one table, so that all functions know the same types.
macro_rules! ggml_types {
    ($( $(#[$doc:meta])* $name:ident = $id:literal, block $len:literal x $bytes:literal; )+) => {
        /// The type of a tensor's elements, by ggml's own name and number.
        ///
        /// A tensor is stored as whole *blocks*: [`block_len`](Self::block_len) elements in
        /// [`block_bytes`](Self::block_bytes) bytes. Blocks never straddle a row. Plain numbers
        /// are blocks of one element.
        ///
        /// The list is that of ggml as of gguf-py 0.19. A catalogue can contain tensors of every type,
        /// including types that no program computes with.
        ///
        /// Number 42 is `Q2_0` as in ggml, in blocks of 64 elements. A fork writes blocks of 128
        /// elements under the same number. Such a file is detected by the offsets of its tensors.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(non_camel_case_types, reason = "ggml's own spelling: Q4_K, IQ2_XXS")]
        pub enum GgmlType {
            $( $(#[$doc])* $name, )+
        }

        impl GgmlType {
            /// Every type, in the order of its number.
            pub const ALL: &'static [Self] = &[$( Self::$name, )+];

            /// Returns the type of this number, or `None` if this version has none. For a type that ggml has
            /// removed, see [`removed_name`](Self::removed_name).
            #[must_use]
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $( $id => Some(Self::$name), )+
                    _ => None,
                }
            }

            /// Returns the number of this type in a file.
            #[must_use]
            pub const fn id(self) -> u32 {
                match self { $( Self::$name => $id, )+ }
            }

            /// Returns the name, as gguf-py spells it: `F16`, `Q4_K`, `IQ2_XXS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )+ }
            }

            /// Returns the number of elements in one block; 1 for plain numbers.
            #[must_use]
            pub const fn block_len(self) -> u64 {
                match self { $( Self::$name => $len, )+ }
            }

            /// Returns the number of bytes in one block.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $( Self::$name => $bytes, )+ }
            }
        }
    };
}

ggml_types! {
    /// IEEE single.
    F32 = 0, block 1 x 4;
    /// IEEE half.
    F16 = 1, block 1 x 2;
    /// 4 bits, one scale.
    Q4_0 = 2, block 32 x 18;
    /// 4 bits, scale and minimum.
    Q4_1 = 3, block 32 x 20;
    /// 5 bits, one scale.
    Q5_0 = 6, block 32 x 22;
    /// 5 bits, scale and minimum.
    Q5_1 = 7, block 32 x 24;
    /// 8 bits, one scale.
    Q8_0 = 8, block 32 x 34;
    /// 8 bits, scale and sum: ggml's type for activations, 36 bytes in `ggml-common.h`. (gguf-py has
    /// the 40 bytes of an earlier version; no tool writes this type to files.)
    Q8_1 = 9, block 32 x 36;
    /// 2-bit super-block.
    Q2_K = 10, block 256 x 84;
    /// 3-bit super-block.
    Q3_K = 11, block 256 x 110;
    /// 4-bit super-block.
    Q4_K = 12, block 256 x 144;
    /// 5-bit super-block.
    Q5_K = 13, block 256 x 176;
    /// 6-bit super-block.
    Q6_K = 14, block 256 x 210;
    /// 8-bit super-block: ggml's type for activations.
    Q8_K = 15, block 256 x 292;
    /// 2.06 bits per element, from a grid.
    IQ2_XXS = 16, block 256 x 66;
    /// 2.31 bits per element, from a grid.
    IQ2_XS = 17, block 256 x 74;
    /// 3.06 bits per element, from a grid.
    IQ3_XXS = 18, block 256 x 98;
    /// 1.56 bits per element, from a grid.
    IQ1_S = 19, block 256 x 50;
    /// 4 bits, non-linear.
    IQ4_NL = 20, block 32 x 18;
    /// 3.44 bits per element, from a grid.
    IQ3_S = 21, block 256 x 110;
    /// 2.56 bits per element, from a grid.
    IQ2_S = 22, block 256 x 82;
    /// 4 bits, non-linear super-block.
    IQ4_XS = 23, block 256 x 136;
    /// 8-bit signed integer.
    I8 = 24, block 1 x 1;
    /// 16-bit signed integer.
    I16 = 25, block 1 x 2;
    /// 32-bit signed integer.
    I32 = 26, block 1 x 4;
    /// 64-bit signed integer.
    I64 = 27, block 1 x 8;
    /// IEEE double.
    F64 = 28, block 1 x 8;
    /// 1.75 bits per element, from a grid.
    IQ1_M = 29, block 256 x 56;
    /// The upper half of an IEEE single. Plain numbers without blocks.
    BF16 = 30, block 1 x 2;
    /// Ternary, 1.69 bits per element.
    TQ1_0 = 34, block 256 x 54;
    /// Ternary, 2.06 bits per element.
    TQ2_0 = 35, block 256 x 66;
    /// Microscaling 4-bit float, one exponent for 32 elements.
    MXFP4 = 39, block 32 x 17;
    /// NVIDIA's 4-bit float, four scales for 64 elements.
    NVFP4 = 40, block 64 x 36;
    /// 1 bit, one scale.
    Q1_0 = 41, block 128 x 18;
    /// 2 bits, one scale.
    Q2_0 = 42, block 64 x 18;
}

impl GgmlType {
    /// Returns the name of a type that had this number and that ggml has removed from files.
    #[must_use]
    pub const fn removed_name(id: u32) -> Option<&'static str> {
        match id {
            4 => Some("Q4_2"),
            5 => Some("Q4_3"),
            31 => Some("Q4_0_4_4"),
            32 => Some("Q4_0_4_8"),
            33 => Some("Q4_0_8_8"),
            36 => Some("IQ4_NL_4_4"),
            37 => Some("IQ4_NL_4_8"),
            38 => Some("IQ4_NL_8_8"),
            _ => None,
        }
    }

    /// Returns the number of bytes of `elements` elements; `None` if they are not a whole number of blocks,
    /// or if the size exceeds `u64`.
    ///
    /// ```
    /// use gguf_format::GgmlType;
    /// assert_eq!(GgmlType::Q4_K.bytes_for(3072), Some(1728));
    /// assert_eq!(GgmlType::Q4_K.bytes_for(100), None);
    /// ```
    #[must_use]
    pub const fn bytes_for(self, elements: u64) -> Option<u64> {
        let (Some(blocks), Some(0)) =
            (elements.checked_div(self.block_len()), elements.checked_rem(self.block_len()))
        else {
            return None;
        };
        blocks.checked_mul(self.block_bytes())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No ggml type has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no ggml type is called \"{}\"", escape(.0))]
pub struct UnknownGgmlType(String);

impl FromStr for GgmlType {
    type Err = UnknownGgmlType;

    /// Parses a name, in upper or lower case: gguf-py writes `Q4_K`, ggml `q4_K`, users `q4_k`.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|t| t.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownGgmlType(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for &t in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(t.id()), Some(t));
            assert_eq!(t.name().parse(), Ok(t));
            assert_eq!(t.name().to_lowercase().parse(), Ok(t));
            assert_eq!(t.to_string(), t.name());
            assert_eq!(GgmlType::removed_name(t.id()), None);
        }
        assert_eq!(GgmlType::ALL.len(), 35);
    }

    #[test]
    fn numbers_of_removed_and_unknown_types_give_no_type() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38] {
            assert_eq!(GgmlType::from_id(id), None);
            assert!(GgmlType::removed_name(id).is_some());
        }
        for id in [43, 44, 1000, u32::MAX] {
            assert_eq!(GgmlType::from_id(id), None);
            assert_eq!(GgmlType::removed_name(id), None);
        }
    }

    #[test]
    fn unknown_name_is_refused_and_printed_escaped() {
        let error = "Q4\u{1b}[31m".parse::<GgmlType>().unwrap_err();
        assert_eq!(error.to_string(), "no ggml type is called \"Q4\\u{1b}[31m\"");
    }

    #[test]
    fn bytes_are_whole_blocks_and_checked() {
        assert_eq!(GgmlType::F32.bytes_for(0), Some(0));
        assert_eq!(GgmlType::BF16.bytes_for(7), Some(14));
        assert_eq!(GgmlType::Q8_0.bytes_for(64), Some(68));
        assert_eq!(GgmlType::Q8_0.bytes_for(63), None);
        assert_eq!(GgmlType::F64.bytes_for(u64::MAX / 8 + 1), None);
        assert_eq!(GgmlType::Q1_0.bytes_for(u64::MAX - 127), Some((u64::MAX / 128) * 18));
    }
}
