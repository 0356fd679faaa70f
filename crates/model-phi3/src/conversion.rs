//! Conversions of a tensor's bytes on their way to the device.

use gguf_format::GgmlType;

/// Bytes of a half-precision value.
const F16_BYTES: u64 = 2;

/// The conversion of a tensor's bytes in the file to the bytes of its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conversion {
    /// The bytes are copied unchanged.
    Copy,
    /// Each element of the source is decoded from this type to `f32`, and rounded to IEEE half
    /// precision, to nearest even.
    ToF16(GgmlType),
}

impl Conversion {
    /// Returns the conversion from `source` to half precision; `None` if there is none.
    ///
    /// This is the table of all convertible types. A new type needs a row here and a decoder in the
    /// transfer engine.
    #[must_use]
    pub const fn to_f16(source: GgmlType) -> Option<Self> {
        match source {
            GgmlType::F16 => Some(Self::Copy),
            GgmlType::F32
            | GgmlType::BF16
            | GgmlType::Q4_0
            | GgmlType::Q4_1
            | GgmlType::Q5_0
            | GgmlType::Q5_1
            | GgmlType::Q8_0
            | GgmlType::Q2_K
            | GgmlType::Q3_K
            | GgmlType::Q4_K
            | GgmlType::Q5_K
            | GgmlType::Q6_K
            | GgmlType::IQ1_S
            | GgmlType::IQ1_M
            | GgmlType::IQ2_XXS
            | GgmlType::IQ2_XS
            | GgmlType::IQ2_S
            | GgmlType::IQ3_XXS
            | GgmlType::IQ3_S
            | GgmlType::IQ4_NL
            | GgmlType::IQ4_XS
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0
            | GgmlType::MXFP4
            | GgmlType::NVFP4
            | GgmlType::Q1_0
            | GgmlType::Q2_0 => Some(Self::ToF16(source)),
            _ => None,
        }
    }

    /// Returns the number of result bytes for this number of source bytes; `None` if these are not whole
    /// blocks, or if the result exceeds 64 bits.
    #[must_use]
    pub fn dest_bytes(self, source_bytes: u64) -> Option<u64> {
        match self {
            Self::Copy => Some(source_bytes),
            Self::ToF16(ggml_type) => {
                let blocks = source_bytes.checked_div(ggml_type.block_bytes())?;
                let is_whole = blocks.checked_mul(ggml_type.block_bytes()) == Some(source_bytes);
                let bytes = blocks.checked_mul(ggml_type.block_len())?.checked_mul(F16_BYTES)?;
                is_whole.then_some(bytes)
            }
        }
    }

    /// Returns the largest number of source bytes, in whole blocks, whose result has at most `dest_bytes`
    /// bytes.
    #[must_use]
    pub fn source_bytes(self, dest_bytes: u64) -> u64 {
        match self {
            Self::Copy => dest_bytes,
            Self::ToF16(ggml_type) => {
                let block = ggml_type.block_len().saturating_mul(F16_BYTES);
                let blocks = dest_bytes.checked_div(block).unwrap_or(0);
                blocks.saturating_mul(ggml_type.block_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_of_published_phi_3_files_can_be_converted() {
        let refused: Vec<&str> = GgmlType::ALL
            .iter()
            .filter(|ggml_type| Conversion::to_f16(**ggml_type).is_none())
            .map(|ggml_type| ggml_type.name())
            .collect();
        let expected = ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"];
        assert_eq!(refused, expected);
    }

    #[test]
    fn sizes_are_those_of_whole_blocks() {
        // 32 elements in 34 bytes.
        let q8_0 = Conversion::ToF16(GgmlType::Q8_0);
        assert_eq!((q8_0.dest_bytes(0), q8_0.dest_bytes(68)), (Some(0), Some(128)));
        assert_eq!((q8_0.dest_bytes(33), q8_0.dest_bytes(u64::MAX)), (None, None));
        assert_eq!(Conversion::ToF16(GgmlType::TQ1_0).dest_bytes(u64::MAX / 54 * 54), None);
        assert_eq!([127, 128, 191].map(|bytes| q8_0.source_bytes(bytes)), [34, 68, 68]);
        assert_eq!(Conversion::Copy.dest_bytes(u64::MAX), Some(u64::MAX));
        assert_eq!(Conversion::Copy.source_bytes(7), 7);
        for conversion in GgmlType::ALL.iter().filter_map(|&of| Conversion::to_f16(of)) {
            let source = conversion.source_bytes(8 << 20);
            assert_eq!(conversion.dest_bytes(source), Some(8 << 20), "{conversion:?}");
        }
    }

    #[test]
    fn f16_is_copied_and_other_types_are_decoded() {
        assert_eq!(Conversion::to_f16(GgmlType::F16), Some(Conversion::Copy));
        assert_eq!(Conversion::to_f16(GgmlType::Q6_K), Some(Conversion::ToF16(GgmlType::Q6_K)));
    }
}
