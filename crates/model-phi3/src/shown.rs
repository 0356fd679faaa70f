//! How messages show text from a file.

use std::fmt;

use gguf_format::escape;

/// Characters of a name or value that a message shows at most.
const SHOWN_CHARS: usize = 96;

/// Returns the text escaped, and only its start if it is long.
pub(crate) fn shown(text: &str) -> impl fmt::Display + '_ {
    escape(text).shortened(SHOWN_CHARS)
}
