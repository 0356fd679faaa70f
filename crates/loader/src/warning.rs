//! Warnings about files that can be loaded.

use gguf_format::{ByteSource, GgufFile};
use model_phi3::Phi3Config;

/// A possible fault of a file that can be loaded. Its model may give wrong answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// About the file: it may be damaged, or not the intended one.
    Gguf(gguf_format::Warning),
    /// About the model: its keys or tensors do not fit together.
    Model(model_phi3::Warning),
}

impl Warning {
    /// Returns all warnings of a file and, if it has one, of its model.
    pub fn of<S: ByteSource>(gguf: &GgufFile<S>, config: Option<&Phi3Config>) -> Vec<Self> {
        let of_file = gguf.warnings().cloned().map(Self::Gguf);
        let of_model = config.map(Phi3Config::warnings).unwrap_or_default();
        of_file.chain(of_model.into_iter().map(Self::Model)).collect()
    }

    /// Returns code, cause and cure of every kind of warning.
    pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        gguf_format::Warning::ALL.iter().chain(model_phi3::Warning::ALL).copied()
    }

    /// Returns the stable name of this kind of warning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gguf(warning) => warning.code(),
            Self::Model(warning) => warning.code(),
        }
    }

    /// Returns the advice to the operator.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Gguf(warning) => warning.help(),
            Self::Model(warning) => warning.help(),
        }
    }
}

/// Writes one line. Text from the file is escaped.
impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gguf(warning) => warning.fmt(f),
            Self::Model(warning) => warning.fmt(f),
        }
    }
}
