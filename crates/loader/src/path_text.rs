//! How a path is shown.

use gguf_format::{Escaped, escape};
use std::path::Path;

/// A path for messages: one line, with no character that a terminal would act on. Bytes that are not
/// UTF-8 are shown as `\xff`.
pub(crate) fn path_text(path: &Path) -> Escaped<'_> {
    escape(path.as_os_str().as_encoded_bytes())
}
