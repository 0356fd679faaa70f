//! Errors of configuration, binding and plan.

use gguf_format::{CodeFacts, ErrorClass, GgmlType};

use crate::codes;
use crate::problems::{Problem, Problems};
use crate::shown::shown;

/// The reason why no configuration, binding or plan can be made from a file.
///
/// Each kind of error has a stable [`code`](Self::code) for programs, a message with key or tensor and
/// numbers, and usually advice: [`help`](Self::help). Text from the file is escaped. A message is
/// complete: it contains the message of its cause, which [`source`](std::error::Error::source) returns
/// for programs.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is missing, has the wrong type, or is an integer out of range. This crate returns only such
    /// errors of the parser, but `?` in a caller can convert any of them: see [`ErrorClass`].
    #[error(transparent)]
    Metadata(#[from] gguf_format::Error),

    /// The file contains another model, or none.
    #[error("{}", architecture_text(.found.as_deref()))]
    UnsupportedArchitecture {
        /// `general.architecture`, if the file has it.
        found: Option<String>,
    },

    /// The file does not contain the weights of a model.
    #[error("{}", not_a_model_text(.found.as_deref()))]
    NotAModel {
        /// `general.type` if it is not `model`: `adapter`, `imatrix`, `mmproj`. `None` if the file has no
        /// tensors, for example because it contains only a vocabulary.
        found: Option<String>,
    },

    /// The value of a key is impossible for a Phi-3 model.
    #[error(
        "the key {} is {}, but {reason}",
        shown(.key), shown(.value)
    )]
    InvalidValue {
        /// The key.
        key: String,
        /// Its value, as text.
        value: String,
        /// The rule that it breaks.
        reason: String,
    },

    /// The value of a key is possible in other models, but not supported for these weights.
    #[error(
        "the key {} is {}, which is not supported: {reason}",
        shown(.key), shown(.value)
    )]
    UnsupportedValue {
        /// The key.
        key: String,
        /// Its value, as text.
        value: String,
        /// The supported values, or the reason.
        reason: String,
    },

    /// The tensors of the file do not match its configuration.
    #[error(transparent)]
    Binding(#[from] Problems),

    /// The type of a tensor cannot be decoded to half precision.
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

    /// The size of the model exceeds 64 bits.
    #[error("{what} exceeds 2^64 - 1 bytes")]
    TooLarge {
        /// The item that is too large.
        what: &'static str,
    },

    /// A plan breaks one of its own rules. This is a bug.
    #[error("the load plan is inconsistent: {fault}")]
    InvalidPlan {
        /// The rule and the place.
        fault: String,
    },

    /// The model cannot be divided among this number of devices.
    #[error(
        "tensor {} cannot be divided among {devices} devices: {reason}; {}",
        shown(.tensor), possible_text(.possible)
    )]
    Placement {
        /// The tensor that cannot be divided.
        tensor: Box<str>,
        /// The number of devices.
        devices: usize,
        /// Rows or columns of the tensor that stay together.
        block: u64,
        /// The reason.
        reason: Box<str>,
        /// The numbers of devices, up to 256, that are possible with this model and storage; in ascending order.
        possible: Box<[usize]>,
    },
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Binding(problem.into())
    }
}

impl Error {
    /// Every code of this crate. [`code`](Self::code) returns one of these or, for
    /// [`Metadata`](Self::Metadata), one of [`gguf_format::Error::ALL_CODES`]. Codes are only added,
    /// never removed.
    pub const ALL_CODES: &'static [CodeFacts] = codes::ALL;

    /// Returns code, class, cause and cure of this kind of error.
    #[must_use]
    pub fn facts(&self) -> CodeFacts {
        match self {
            Self::Metadata(error) => error.facts(),
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
            Self::Placement { .. } => codes::PLACEMENT,
        }
    }

    /// Returns a stable name for the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// Returns the class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.facts().class
    }

    /// Returns the advice to the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Metadata(error) => error.help(),
            _ => Some(self.facts().cure),
        }
    }
}

fn architecture_text(found: Option<&str>) -> String {
    match found {
        Some(name) => {
            format!("the architecture \"{}\" is not supported: expected phi3 or llama", shown(name))
        }
        None => "the file contains no model: it has no key general.architecture".to_owned(),
    }
}

fn not_a_model_text(found: Option<&str>) -> String {
    match found {
        Some(kind) => {
            format!("the file contains no model: its general.type is \"{}\"", shown(kind))
        }
        None => {
            "the file contains no weights: it has no tensors, like a file with only a vocabulary"
                .to_owned()
        }
    }
}

/// Returns the numbers in words; three or more consecutive numbers are a range.
fn possible_text(possible: &[usize]) -> String {
    let mut texts = Vec::new();
    for run in possible.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        match run {
            [first, .., last] if run.len() > 2 => texts.push(format!("{first} to {last}")),
            _ => texts.extend(run.iter().map(usize::to_string)),
        }
    }
    format!("these numbers of devices are possible: {}", texts.join(", "))
}
