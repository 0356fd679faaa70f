//! Text forms of choices, for command lines, files and messages.

use crate::shown::shown;

/// The error for a text that is none of the words of a choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is unknown: expected {}", shown(.found), listed(.expected))]
pub struct ParseChoiceError {
    found: String,
    expected: &'static [&'static str],
}

impl ParseChoiceError {
    /// Makes the error for the text `found`; `expected` lists the known words.
    #[must_use]
    pub fn new(found: &str, expected: &'static [&'static str]) -> Self {
        Self { found: found.to_owned(), expected }
    }
}

fn listed(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// Implements the conversions between the variants of an enum and their words. Both directions use one list.
#[doc(hidden)]
#[macro_export]
macro_rules! choice_words {
    ($type:ident: $( $variant:ident = $word:literal ),+) => {
        impl $type {
            /// Every choice, in the order of help texts.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// Returns the word for this choice.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::ParseChoiceError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let choice = Self::ALL.iter().find(|choice| choice.name() == text);
                choice.copied().ok_or_else(|| $crate::ParseChoiceError::new(text, &[$( $word ),+]))
            }
        }
    };
}
