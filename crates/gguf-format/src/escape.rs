//! Printing of text that came from a file.
//!
//! A tensor name can carry terminal escapes that clear the screen, or bidirectional controls that
//! make one name look like another. Everything this crate prints of a file goes through here.

use std::fmt::{self, Write as _};

/// Text from a file, made harmless for terminals and logs: see [`escape`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    max_chars: usize,
    in_quotes: bool,
}

/// Displays `text` with control characters, bidirectional and invisible controls, line separators
/// and backslashes as `\n`, `\u{1b}`, `\\` and so on, and bytes that are no UTF-8 as `\xff`.
/// Everything else prints as it is. The result is one line.
///
/// ```
/// use gguf_format::escape;
/// assert_eq!(escape("blk.0.attn_q.weight").to_string(), "blk.0.attn_q.weight");
/// assert_eq!(escape("red\u{1b}[31m").to_string(), "red\\u{1b}[31m");
/// assert_eq!(escape(b"\xff\xfe").to_string(), "\\xff\\xfe");
/// ```
#[must_use]
pub fn escape<T: AsRef<[u8]> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped { bytes: text.as_ref(), max_chars: usize::MAX, in_quotes: false }
}

impl Escaped<'_> {
    /// Prints at most `max_chars` characters of the text, then `…` where some are left: keys may
    /// be 65,535 bytes long, and a message should not be.
    #[must_use]
    pub fn shortened(self, max_chars: usize) -> Self {
        Self { max_chars, ..self }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.in_quotes {
            return self.write_text(f);
        }
        f.write_char('"')?;
        self.write_text(f)?;
        f.write_char('"')
    }
}

impl Escaped<'_> {
    fn write_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.max_chars;
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if left == 0 {
                    return f.write_char('…');
                }
                left = left.saturating_sub(1);
                match c {
                    // Or a name could end the quotation and go on in our words.
                    '"' if self.in_quotes => f.write_str("\\\"")?,
                    c => write_char(f, c)?,
                }
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return f.write_char('…');
                }
                left = left.saturating_sub(1);
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn write_char(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    match c {
        '\\' => f.write_str("\\\\"),
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        c if is_unprintable(c) => {
            write!(f, "\\u{{{:x}}}", u32::from(c))
        }
        c => f.write_char(c),
    }
}

/// Whether [`escape`] prints a character as `\u{..}`, other than for a backslash: a control, or one that
/// would not be seen. For output that has escapes of its own, such as JSON.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || is_invisible_control(c)
}

/// Format characters that reorder, hide or break what is printed, and the separators that end a
/// line without being control characters.
fn is_invisible_control(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// `"text"`, escaped.
pub(crate) fn quoted_in_full<T: AsRef<[u8]> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped { in_quotes: true, ..escape(text) }
}

/// `"name"`, escaped and shortened: how errors show names.
pub(crate) fn quoted<T: AsRef<[u8]> + ?Sized>(text: &T) -> Escaped<'_> {
    quoted_in_full(text).shortened(96)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_line_breaks_do_not_survive() {
        let printed = escape("a\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{7f}\tb").to_string();
        assert_eq!(printed, "a\\u{1b}]0;owned\\u{7}\\r\\n\\u{9b}2J\\u{7f}\\tb");
        assert!(!printed.chars().any(char::is_control));
    }

    #[test]
    fn bidirectional_and_invisible_controls_do_not_survive() {
        for c in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{e0041}'] {
            let printed = escape(&format!("a{c}b")).to_string();
            assert_eq!(printed, format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }

    #[test]
    fn ordinary_text_of_any_script_is_kept() {
        for text in ["token_embd.weight", "Ġthe", "模型", "naïve – ok", "\u{1f600}"] {
            assert_eq!(escape(text).to_string(), text);
        }
    }

    #[test]
    fn backslashes_are_doubled_so_that_an_escape_cannot_be_forged() {
        assert_eq!(escape("\\u{1b}").to_string(), "\\\\u{1b}");
    }

    #[test]
    fn a_quoted_name_cannot_end_its_quotation() {
        assert_eq!(quoted("a\" is fine").to_string(), r#""a\" is fine""#);
        assert_eq!(escape("a\"b").to_string(), "a\"b");
    }

    #[test]
    fn shortening_counts_characters_and_says_so() {
        assert_eq!(escape("abcdef").shortened(3).to_string(), "abc…");
        assert_eq!(escape("abc").shortened(3).to_string(), "abc");
        assert_eq!(escape(b"ab\xff\xff").shortened(3).to_string(), "ab\\xff…");
    }
}
