//! Why a file gives no model, by whose fault.

use gguf_format::GgmlType;

use crate::codes::{self, CodeFacts, ErrorClass};
use crate::problems::{Problem, Problems};
use crate::shown::shown;

/// Why a file gives no configuration, binding or plan.
///
/// Each kind has a stable [`code`](Self::code) for machines, a message with key or tensor and
/// numbers for people, and often a cure: [`help`](Self::help). Text from the file is escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is missing, of the wrong type, or holds an integer out of range: all that this crate
    /// makes of it. A caller's `?` may put any error of the parser here, see [`ErrorClass`].
    #[error(transparent)]
    Metadata(#[from] gguf_format::Error),

    /// The file holds another model, or none.
    #[error("{}", architecture_text(.found.as_deref()))]
    UnsupportedArchitecture {
        /// `general.architecture`, where the file has it.
        found: Option<String>,
    },

    /// The file holds something else than a model's weights.
    #[error("{}", not_a_model_text(.found.as_deref()))]
    NotAModel {
        /// `general.type`, where it is another than `model`: `adapter`, `imatrix`, `mmproj`. `None`
        /// where the file has no tensors, as one of a vocabulary alone has none.
        found: Option<String>,
    },

    /// A key has a value that no Phi-3 model can have.
    #[error(
        "the key {} is {}, but {reason}",
        shown(.key), shown(.value)
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
        shown(.key), shown(.value)
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
        shown(.tensor)
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

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Binding(problem.into())
    }
}

impl Error {
    /// Every code of this crate's own. [`code`](Self::code) answers one of these, or one of
    /// [`gguf_format::Error::ALL_CODES`] for [`Metadata`](Self::Metadata). Codes are only ever
    /// added.
    pub const ALL_CODES: &'static [&'static str] = codes::NAMES;

    /// What there is to say of this kind of error, whatever the file.
    #[must_use]
    pub fn facts(&self) -> CodeFacts {
        match self {
            Self::Metadata(error) => metadata_facts(error),
            Self::UnsupportedArchitecture { .. } => codes::UNSUPPORTED_ARCHITECTURE,
            Self::NotAModel { .. } => codes::NOT_A_MODEL,
            Self::InvalidValue { .. } => codes::INVALID_VALUE,
            Self::UnsupportedValue { .. } => codes::UNSUPPORTED_VALUE,
            Self::Binding(problems) => match problems.class() {
                ErrorClass::Unsupported => codes::UNSUPPORTED_TENSOR,
                _ => codes::TENSOR_MISMATCH,
            },
            Self::NoConversion { .. } => codes::NO_CONVERSION,
            Self::TooLarge { .. } => codes::TOO_LARGE,
            Self::InvalidPlan { .. } => codes::INVALID_PLAN,
        }
    }

    /// A stable name for the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.facts().class
    }

    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Metadata(error) => error.help(),
            _ => Some(self.facts().cure),
        }
    }
}

fn metadata_facts(error: &gguf_format::Error) -> CodeFacts {
    let gguf_format::CodeFacts { code, class, cause, cure, .. } = error.facts();
    let class = match class {
        gguf_format::ErrorClass::Unsupported => ErrorClass::Unsupported,
        _ => ErrorClass::Malformed,
    };
    CodeFacts { code, class, cause, cure }
}

fn architecture_text(found: Option<&str>) -> String {
    match found {
        Some(name) => {
            format!("the architecture \"{}\" is not supported: expected phi3 or llama", shown(name))
        }
        None => "the file holds no model: it has no general.architecture".to_owned(),
    }
}

fn not_a_model_text(found: Option<&str>) -> String {
    match found {
        Some(kind) => format!("the file holds no model: its general.type is \"{}\"", shown(kind)),
        None => {
            "the file holds no weights: it has no tensors, as one of a vocabulary alone has none"
                .to_owned()
        }
    }
}
