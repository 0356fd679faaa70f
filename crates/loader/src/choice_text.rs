//! Conversions between option values and text, for command lines and configuration files.

use crate::options::{DeviceChoice, Verify};
use model_phi3::{ParseChoiceError, choice_words};
use std::fmt;
use std::str::FromStr;

choice_words!(Verify: Residency = "residency", Checksum = "checksum", Readback = "readback");

/// Writes `auto`, `host` or, for example, `cuda:0`.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Host => f.pad("host"),
            Self::Cuda(ordinal) => f.pad(&format!("cuda:{ordinal}")),
        }
    }
}

/// Parses the words of [`Display`](fmt::Display), and `cuda` for the first GPU.
impl FromStr for DeviceChoice {
    type Err = ParseChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ordinal = |text: &str| {
            let ordinal = text.strip_prefix("cuda:")?.parse::<u16>().ok()?;
            Some(Self::Cuda(ordinal.into()))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Host),
            "cuda" => Ok(Self::Cuda(0)),
            _ => ordinal(text)
                .ok_or_else(|| ParseChoiceError::new(text, &["auto", "host", "cuda", "cuda:N"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        assert!(Verify::ALL.iter().all(|verify| verify.to_string().parse() == Ok(*verify)));
        assert!(Verify::ALL.is_sorted());
        let gpus = [0, 1, 65_535].map(DeviceChoice::Cuda);
        for device in gpus.into_iter().chain([DeviceChoice::Auto, DeviceChoice::Host]) {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(
            format!("{:>8}|{:<9}|", DeviceChoice::Cuda(1), Verify::Readback),
            "  cuda:1|readback |"
        );
        assert_eq!(Verify::default().name(), "residency");
    }

    #[test]
    fn the_error_for_an_unknown_word_lists_the_known_words() {
        let verify = "Checksum\u{1b}".parse::<Verify>().unwrap_err().to_string();
        assert_eq!(
            verify,
            r#""Checksum\u{1b}" is unknown: expected residency, checksum or readback"#
        );
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:65536", "cuda:1 ", "cuda: 1"] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.ends_with("is unknown: expected auto, host, cuda or cuda:N"), "{error}");
        }
    }
}
