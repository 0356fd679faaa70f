//! Why a file gives no model, by whose fault.

use crate::problems::Problems;
use gguf_format::{GgmlType, escape};

/// Characters of a name or value that a message shows at most.
pub(crate) const SHOWN_CHARS: usize = 96;

/// Why a file gives no configuration, binding or plan.
///
/// Each kind has a stable [`code`](Self::code) for machines, a message with key or tensor and
/// numbers for people, and often a cure: [`help`](Self::help). Text from the file is escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is missing, of the wrong type, or holds an integer out of range.
    #[error(transparent)]
    Metadata(#[from] gguf_format::Error),

    /// The file holds another model, or none.
    #[error("{}", architecture_text(.found.as_deref()))]
    UnsupportedArchitecture {
        /// `general.architecture`, where the file has it.
        found: Option<String>,
    },

    /// A key has a value that no Phi-3 model can have.
    #[error(
        "the key {} is {}, but {reason}",
        escape(.key).shortened(SHOWN_CHARS), escape(.value).shortened(SHOWN_CHARS)
    )]
    InvalidValue {
        /// The key.
        key: String,
        /// Its value, as text.
        value: String,
        /// The rule it breaks.
        reason: String,
    },

    /// A key has a value that other models may have, but that has no meaning for the weights this
    /// crate lays out.
    #[error(
        "the key {} is {}, which is not supported: {reason}",
        escape(.key).shortened(SHOWN_CHARS), escape(.value).shortened(SHOWN_CHARS)
    )]
    UnsupportedValue {
        /// The key.
        key: String,
        /// Its value, as text.
        value: String,
        /// What is supported.
        reason: String,
    },

    /// The tensors of the file are not those of its configuration.
    #[error(transparent)]
    Binding(#[from] Problems),

    /// A tensor is of a type that cannot be decoded to half precision.
    #[error(
        "tensor {} is {ggml_type}, which cannot be converted to f16",
        escape(.tensor).shortened(SHOWN_CHARS)
    )]
    NoConversion {
        /// The tensor.
        tensor: String,
        /// Its type.
        ggml_type: GgmlType,
    },

    /// The model is larger than 64 bits can address.
    #[error("{what} exceeds 2^64 - 1 bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },

    /// A plan breaks one of its own rules: a bug.
    #[error("the load plan is inconsistent: {fault}")]
    InvalidPlan {
        /// The rule, and where it is broken.
        fault: String,
    },
}

/// Whose fault an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The file is broken: keys or tensors are missing, wrong or contradict each other.
    Malformed,
    /// The file may be good, but holds another model, or a form of it that is not supported.
    Unsupported,
    /// This crate is wrong.
    Internal,
}

impl Error {
    /// Every code of this crate's own. [`code`](Self::code) answers one of these, or one of
    /// [`gguf_format::Error::ALL_CODES`] for [`Metadata`](Self::Metadata). Codes are only ever
    /// added.
    pub const ALL_CODES: &'static [&'static str] = &[
        "PHI3_UNSUPPORTED_ARCHITECTURE",
        "PHI3_INVALID_VALUE",
        "PHI3_UNSUPPORTED_VALUE",
        "PHI3_TENSOR_MISMATCH",
        "PHI3_UNSUPPORTED_TENSOR",
        "PHI3_NO_CONVERSION",
        "PHI3_TOO_LARGE",
        "PHI3_INVALID_PLAN",
    ];

    /// A stable name for the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Metadata(error) => error.code(),
            Self::UnsupportedArchitecture { .. } => "PHI3_UNSUPPORTED_ARCHITECTURE",
            Self::InvalidValue { .. } => "PHI3_INVALID_VALUE",
            Self::UnsupportedValue { .. } => "PHI3_UNSUPPORTED_VALUE",
            Self::Binding(problems) => match problems.class() {
                ErrorClass::Unsupported => "PHI3_UNSUPPORTED_TENSOR",
                _ => "PHI3_TENSOR_MISMATCH",
            },
            Self::NoConversion { .. } => "PHI3_NO_CONVERSION",
            Self::TooLarge { .. } => "PHI3_TOO_LARGE",
            Self::InvalidPlan { .. } => "PHI3_INVALID_PLAN",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Metadata(error) => match error.class() {
                gguf_format::ErrorClass::Unsupported => ErrorClass::Unsupported,
                _ => ErrorClass::Malformed,
            },
            Self::InvalidValue { .. } | Self::TooLarge { .. } => ErrorClass::Malformed,
            Self::UnsupportedArchitecture { .. }
            | Self::UnsupportedValue { .. }
            | Self::NoConversion { .. } => ErrorClass::Unsupported,
            Self::Binding(problems) => problems.class(),
            Self::InvalidPlan { .. } => ErrorClass::Internal,
        }
    }

    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Metadata(error) => error.help(),
            Self::UnsupportedArchitecture { .. } => Some(
                "give a file of the Phi-3 family: architecture phi3, or llama for a llamafied one",
            ),
            Self::NoConversion { .. } => {
                Some("load with native storage, or quantise the model to another type")
            }
            Self::InvalidValue { .. } | Self::Binding(_) => Some(
                "the file is damaged or from an unknown converter: fetch it again, or convert the model with a current llama.cpp",
            ),
            Self::UnsupportedValue { .. } | Self::TooLarge { .. } => None,
            Self::InvalidPlan { .. } => {
                Some("this is a bug: please report it with the file's name")
            }
        }
    }
}

fn architecture_text(found: Option<&str>) -> String {
    match found {
        Some(name) => format!(
            "the architecture \"{}\" is not supported: expected phi3 or llama",
            escape(name).shortened(SHOWN_CHARS)
        ),
        None => "the file holds no model: it has no general.architecture".to_owned(),
    }
}
