//! What happens to a tensor's bytes on their way to the device.

use gguf_format::GgmlType;

/// How the bytes of a file tensor become the bytes of its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conversion {
    /// The destination holds the source bytes unchanged.
    Copy,
    /// The destination holds each element of the source, stored as this type, decoded to `f32` and
    /// rounded to nearest-even IEEE half precision.
    ToF16(GgmlType),
}

impl Conversion {
    /// The conversion that turns `source` into half precision; `None` where there is none.
    ///
    /// This is the one table of convertible types: a new type is a row here and a decoder in the
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_phi_3_is_published_in_converts() {
        let refused: Vec<&str> = GgmlType::ALL
            .iter()
            .filter(|ggml_type| Conversion::to_f16(**ggml_type).is_none())
            .map(|ggml_type| ggml_type.name())
            .collect();
        let expected = ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"];
        assert_eq!(refused, expected);
    }

    #[test]
    fn halves_are_copied_and_the_rest_decoded() {
        assert_eq!(Conversion::to_f16(GgmlType::F16), Some(Conversion::Copy));
        assert_eq!(Conversion::to_f16(GgmlType::Q6_K), Some(Conversion::ToF16(GgmlType::Q6_K)));
    }
}
