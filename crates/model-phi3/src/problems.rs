//! Problems with the tensors of a file.

use std::fmt;

use gguf_format::{ErrorClass, GgmlType, Shape};

use crate::names;
use crate::shown::shown;

/// The largest number of problems that a message lists. It only counts the others.
const SHOWN_PROBLEMS: usize = 20;

/// The largest number of problems that are stored. The others are only counted: a file of a few megabytes can
/// have a hundred thousand problems, and each takes several times the memory of its tensor.
const KEPT_PROBLEMS: usize = 256;

/// All problems of a file whose tensors do not match its configuration.
///
/// Displays the first twenty problems, one on a line, and the number of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    malformed: usize,
    unsupported: usize,
}

impl Problems {
    pub(crate) const fn none() -> Self {
        Self { kept: Vec::new(), malformed: 0, unsupported: 0 }
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        let count = if problem.is_foreign() { &mut self.unsupported } else { &mut self.malformed };
        *count = count.saturating_add(1);
        if self.kept.len() < KEPT_PROBLEMS {
            self.kept.push(problem);
        }
    }

    /// Returns the problems; `None` if there are none.
    pub(crate) fn into_any(self) -> Option<Self> {
        (!self.kept.is_empty()).then_some(self)
    }

    /// Returns the first 256 problems, at least one, in the order of the forward pass. Unexpected tensors are
    /// last.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.kept
    }

    /// Returns the number of all problems of this class, including those that were only counted.
    #[must_use]
    pub const fn count(&self, class: ErrorClass) -> usize {
        match class {
            ErrorClass::Malformed => self.malformed,
            ErrorClass::Unsupported => self.unsupported,
            _ => 0,
        }
    }

    /// Returns [`Malformed`](ErrorClass::Malformed) if a tensor is missing, misshapen or contradictory;
    /// [`Unsupported`](ErrorClass::Unsupported) if the model is complete, but has additional tensors or another
    /// form.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        if self.malformed == 0 { ErrorClass::Unsupported } else { ErrorClass::Malformed }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        let mut problems = Self::none();
        problems.push(problem);
        problems
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tensors of the file do not match its metadata:")?;
        for problem in self.kept.iter().take(SHOWN_PROBLEMS) {
            write!(f, "\n  {problem}")?;
        }
        match self.malformed.saturating_add(self.unsupported).saturating_sub(SHOWN_PROBLEMS) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// One problem with the tensors of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A tensor is missing.
    Missing {
        /// Its name. If a split weight is missing completely, the names of all its parts, in words.
        name: String,
        /// The tensors of the other layout, which can replace it, if there is one.
        alternative: Option<String>,
    },
    /// Layers have no tensor at all. The tensors of the first such layers are reported as
    /// [`Missing`](Self::Missing); these are the other layers.
    MissingLayers {
        /// The first of them, from 0.
        first: u32,
        /// Their number.
        count: usize,
    },
    /// A tensor does not belong to the model.
    Unexpected {
        /// Its name, as in the file.
        name: String,
        /// The reason.
        reason: Misfit,
    },
    /// A tensor does not have the dimensions of the configuration.
    Misshapen {
        /// Its name.
        name: String,
        /// The dimensions it should have, in the file's order (contiguous first).
        expected: String,
        /// The dimensions it has.
        found: Shape,
    },
    /// The file has a weight twice, fused and split.
    FusedAndSplit {
        /// The fused tensor.
        fused: String,
        /// One of the split tensors.
        split: String,
    },
    /// A tensor that is never converted does not have the type that consumers read.
    WrongType {
        /// Its name.
        name: String,
        /// The type it should have.
        expected: GgmlType,
        /// The type it has.
        found: GgmlType,
    },
    /// A tensor of weights has integers.
    Integers {
        /// Its name.
        name: String,
        /// The type it has.
        found: GgmlType,
    },
}

/// The reason why a tensor does not belong to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Misfit {
    /// Its layer is not less than `block_count`.
    NoSuchLayer,
    /// It is a bias, and Phi-3 has none.
    Bias,
    /// It is `rope_freqs.weight`: the frequency factors of Llama 3, which have no slot.
    FrequencyFactors,
    /// It is the scale of a tensor, or of its input, and that tensor is not NVFP4.
    Scale,
    /// Phi-3 has no tensor of this name.
    Unknown,
}

impl Misfit {
    pub(crate) fn of(name: &str, layers: u32) -> Self {
        if names::layer_of(name).is_some_and(|layer| layer >= layers) {
            Self::NoSuchLayer
        } else if names::is_bias(name) {
            Self::Bias
        } else if name == names::ROPE_FREQUENCIES {
            Self::FrequencyFactors
        } else if names::is_scale(name) {
            Self::Scale
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchLayer => "the model does not have this layer",
            Self::Bias => "Phi-3 has no biases",
            Self::FrequencyFactors => "Phi-3 has no frequency factors of this kind",
            Self::Scale => "only NVFP4 weights have scales in separate tensors",
            Self::Unknown => "Phi-3 has no tensor of this name",
        })
    }
}

impl Problem {
    /// Returns whether the problem means that the file is valid, but contains another model or another form.
    fn is_foreign(&self) -> bool {
        match self {
            Self::Unexpected { reason, .. } => *reason != Misfit::NoSuchLayer,
            Self::WrongType { .. } | Self::Integers { .. } => true,
            Self::Missing { .. }
            | Self::MissingLayers { .. }
            | Self::Misshapen { .. }
            | Self::FusedAndSplit { .. } => false,
        }
    }

    pub(crate) fn missing(name: &str) -> Self {
        Self::Missing { name: name.to_owned(), alternative: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, alternative: None } => write!(f, "missing: {name}"),
            Self::Missing { name, alternative: Some(alternative) } => {
                write!(f, "missing: {name} (or {alternative})")
            }
            Self::MissingLayers { first, count } => {
                write!(f, "missing: all tensors of {count} more layers, starting at layer {first}")
            }
            Self::Unexpected { name, reason } => {
                write!(f, "unexpected: {}, {reason}", shown(name))
            }
            Self::Misshapen { name, expected, found } => {
                write!(f, "wrong shape: {name} is {found}, expected {expected}")
            }
            Self::FusedAndSplit { fused, split } => {
                write!(f, "duplicate: {fused} and {split} contain the same weights")
            }
            Self::WrongType { name, expected, found } => {
                write!(f, "wrong type: {name} is {found}, expected {expected}")
            }
            Self::Integers { name, found } => {
                write!(f, "wrong type: {name} is {found}, but weights cannot be integers")
            }
        }
    }
}
