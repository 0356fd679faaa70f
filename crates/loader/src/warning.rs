//! Warnings about files that can be loaded.

use gguf_format::{ByteSource, GgufFile, escape};
use model_phi3::Phi3Config;

/// A possible fault of a file that can be loaded. Its model may give wrong answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// About the file: it may be damaged, or not the intended one.
    Gguf(gguf_format::Warning),
    /// About the model: its keys or tensors do not fit together.
    Model(model_phi3::Warning),
    /// About a part of a tensor: [`verify_file`](crate::verify_file) read only zeros there.
    #[non_exhaustive]
    ZeroPart {
        /// The name of the tensor.
        tensor: String,
        /// Bytes in parts of 4 KiB that are all zero.
        zero_bytes: u64,
        /// Bytes of the tensor.
        bytes: u64,
    },
}

const ZERO_PART: (&str, &str, &str) = (
    "ZERO_PART",
    "`verify` found parts of 4 KiB in a tensor that are all zero. An incomplete download has them, but so have models \
     with unused rows.",
    "if the file was downloaded, compare it with the published sha256 (`verify --sha256`)",
);

impl Warning {
    /// Returns all warnings of a file and, if it has one, of its model.
    pub fn of<S: ByteSource>(gguf: &GgufFile<S>, config: Option<&Phi3Config>) -> Vec<Self> {
        let of_file = gguf.warnings().cloned().map(Self::Gguf);
        let of_model = config.map(Phi3Config::warnings).unwrap_or_default();
        of_file.chain(of_model.into_iter().map(Self::Model)).collect()
    }

    /// Returns code, cause and cure of every kind of warning.
    pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let of_crates = gguf_format::Warning::ALL.iter().chain(model_phi3::Warning::ALL);
        of_crates.copied().chain([ZERO_PART])
    }

    /// Returns the stable name of this kind of warning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gguf(warning) => warning.code(),
            Self::Model(warning) => warning.code(),
            Self::ZeroPart { .. } => ZERO_PART.0,
        }
    }

    /// Returns the advice to the operator.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Gguf(warning) => warning.help(),
            Self::Model(warning) => warning.help(),
            Self::ZeroPart { .. } => ZERO_PART.2,
        }
    }
}

/// Writes one line. Text from the file is escaped.
impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gguf(warning) => warning.fmt(f),
            Self::Model(warning) => warning.fmt(f),
            Self::ZeroPart { tensor, zero_bytes, bytes } => {
                write!(
                    f,
                    "{} has {zero_bytes} zero bytes in parts of 4 KiB, of {bytes}",
                    escape(tensor)
                )
            }
        }
    }
}
