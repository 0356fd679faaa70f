//! Warnings about models that can be loaded.

use std::fmt;

use crate::config::Phi3Config;
use crate::keys::{ATTN_FACTOR, CONTEXT_LENGTH, ORIGINAL_CONTEXT};
use crate::names::{ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT};
use crate::rope::RopeScaling;

/// A problem with a model that can be loaded. Its answers may be wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// Keys describe long-context scaling, but the file has no RoPE factors and no other scaling. Some
    /// converters drop the factors.
    #[non_exhaustive]
    RopeFactorsMissing {
        /// These keys, in full, with their values.
        keys: Vec<(String, String)>,
    },
}

const ROPE_FACTORS_MISSING: (&str, &str, &str) = (
    "PHI3_ROPE_FACTORS_MISSING",
    "Keys describe a context longer than the original one, or an attention factor, but the file has \
     neither RoPE factors nor a scaling that works without them.",
    "convert the model again with a current llama.cpp, or fetch a file that has the factors; without \
     them, the answers can be correct only for short contexts",
);

impl Warning {
    /// Every code that [`code`](Self::code) can return, with its cause and cure. Codes are only added, never
    /// removed.
    pub const ALL: &'static [(&'static str, &'static str, &'static str)] = &[ROPE_FACTORS_MISSING];

    const fn facts(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::RopeFactorsMissing { .. } => ROPE_FACTORS_MISSING,
        }
    }

    /// Returns a stable name for the kind of warning.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.facts().0
    }

    /// Returns the advice to the user.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.facts().2
    }
}

/// Writes one line. Keys and values need no escaping.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RopeFactorsMissing { keys } => {
                f.write_str("RoPE factors for long contexts are missing: ")?;
                for (key, value) in keys {
                    write!(f, "{key} is {value}, ")?;
                }
                write!(f, "but the file has no {ROPE_FACTORS_LONG} and no {ROPE_FACTORS_SHORT}")
            }
        }
    }
}

impl Phi3Config {
    /// Returns the warnings about the model. It can be loaded, but its answers may be wrong.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        self.rope_factors_missing().into_iter().collect()
    }

    fn rope_factors_missing(&self) -> Option<Warning> {
        let rope = &self.rope;
        let has_factor = rope.scaling_factor.is_some_and(|factor| factor != 0.0 && factor != 1.0);
        let scaling = rope.scaling.filter(|_| has_factor);
        let is_scaled = matches!(scaling, Some(RopeScaling::Linear | RopeScaling::Yarn));
        let is_longer = rope.original_context.is_some_and(|tokens| self.context_length > tokens);
        // YaRN computes its own attention factor.
        let lacks_factors =
            rope.attn_factor.is_some() && !matches!(scaling, Some(RopeScaling::Yarn));
        if rope.factors || !(is_longer && !is_scaled || lacks_factors) {
            return None;
        }
        let context = (CONTEXT_LENGTH, Some(self.context_length.to_string()));
        let original = (ORIGINAL_CONTEXT, rope.original_context.map(|tokens| tokens.to_string()));
        let attn_factor = (ATTN_FACTOR, rope.attn_factor.map(|factor| factor.to_string()));
        let keys = [context, original, attn_factor];
        let keys = keys.into_iter().filter_map(|(suffix, value)| Some((self.key(suffix), value?)));
        Some(Warning::RopeFactorsMissing { keys: keys.collect() })
    }
}
