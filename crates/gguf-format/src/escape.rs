//! Prints text that comes from a file.
//!
//! A tensor name can contain terminal escapes that clear the screen, or bidirectional controls that
//! make one name look like another. This crate prints all text of a file through this module.

use std::fmt::{self, Write as _};
use std::path::Path;

/// Text from a file, safe for terminals and logs: see [`escape`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    max_chars: usize,
    in_quotes: bool,
}

/// Displays `text` on one line. These characters are escaped, as `
/// `, `\u{1b}`, `\\` and so on: control characters, bidirectional and invisible controls, line
/// separators, backslashes, Unicode's default-ignorable characters with its variation selectors, and
/// all spaces except that of ASCII. Bytes that are not UTF-8 are shown as `\xff`. All other characters
/// print as they are.
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

/// Displays a path as [`escape`] displays text.
#[must_use]
pub fn path_text(path: &Path) -> Escaped<'_> {
    escape(path.as_os_str().as_encoded_bytes())
}

impl Escaped<'_> {
    /// Limits the output to `max_chars` characters of the text, and `…` if the text is longer. A key may have
    /// 65,535 bytes, which is too long for a message.
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
                    // Without this, a name could end the quotation and continue the message.
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

/// Returns whether [`escape`] shows a character as `\u{..}`: a control character, including line ends and
/// tabs, a character that reorders, hides or breaks the printed text, or an invisible one. For formats with
/// other escapes, such as JSON.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

/// Returns whether a character reorders, hides or breaks the printed text, or prints as nothing or as an empty
/// space. With such characters one name could look like another. The ASCII space is not one of them.
fn is_invisible(c: char) -> bool {
    is_ignorable(c) || is_blank(c) || is_control_of_script(c)
}

/// Returns whether a character has the property `Default_Ignorable_Code_Point` of Unicode: programs that do not
/// support such characters show nothing.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Returns whether a character is a space or separator outside ASCII, or a letter or symbol that prints as
/// blank.
fn is_blank(c: char) -> bool {
    matches!(c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{2028}'..='\u{2029}'
        | '\u{202f}' | '\u{205f}' | '\u{2800}' | '\u{3000}'
        | '\u{13441}'..='\u{13442}' | '\u{16fe4}' | '\u{1d159}')
}

/// Returns whether a character is an interlinear annotation or a joiner of Egyptian hieroglyphs.
fn is_control_of_script(c: char) -> bool {
    matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{13430}'..='\u{1343f}')
}

/// Displays `"text"`: in quotes and escaped.
pub(crate) fn quoted_in_full<T: AsRef<[u8]> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped { in_quotes: true, ..escape(text) }
}

/// Displays `"name"`: in quotes, escaped and shortened, for error messages.
pub(crate) fn quoted<T: AsRef<[u8]> + ?Sized>(text: &T) -> Escaped<'_> {
    quoted_in_full(text).shortened(96)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_line_breaks_are_escaped() {
        let printed = escape("a\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{7f}\tb").to_string();
        assert_eq!(printed, "a\\u{1b}]0;owned\\u{7}\\r\\n\\u{9b}2J\\u{7f}\\tb");
        assert!(!printed.chars().any(char::is_control));
    }

    #[test]
    fn bidirectional_and_invisible_controls_are_escaped() {
        for c in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{e0041}'] {
            let printed = escape(&format!("a{c}b")).to_string();
            assert_eq!(printed, format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }

    /// `Default_Ignorable_Code_Point` of DerivedCoreProperties.txt of Unicode 16.0.0,
    /// <https://www.unicode.org/Public/16.0.0/ucd/DerivedCoreProperties.txt>.
    const DEFAULT_IGNORABLE: [(u32, u32); 17] = [
        (0x00ad, 0x00ad),
        (0x034f, 0x034f),
        (0x061c, 0x061c),
        (0x115f, 0x1160),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x200b, 0x200f),
        (0x202a, 0x202e),
        (0x2060, 0x206f),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfff8),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
    ];

    /// `General_Category` Zs, Zl and Zp of DerivedGeneralCategory.txt of Unicode 16.0.0,
    /// <https://www.unicode.org/Public/16.0.0/ucd/extracted/DerivedGeneralCategory.txt>, without U+0020.
    const SEPARATORS: [(u32, u32); 7] = [
        (0x00a0, 0x00a0),
        (0x1680, 0x1680),
        (0x2000, 0x200a),
        (0x2028, 0x2029),
        (0x202f, 0x202f),
        (0x205f, 0x205f),
        (0x3000, 0x3000),
    ];

    /// Selected by their names in UnicodeData.txt of Unicode 16.0.0: braille pattern blank, interlinear
    /// annotations, joiners and blanks of Egyptian hieroglyphs, Khitan small script filler, null notehead.
    const OTHERS: [(u32, u32); 6] = [
        (0x2800, 0x2800),
        (0xfff9, 0xfffb),
        (0x13430, 0x1343f),
        (0x13441, 0x13442),
        (0x16fe4, 0x16fe4),
        (0x1d159, 0x1d159),
    ];

    #[test]
    fn exactly_the_characters_that_show_nothing_are_escaped() {
        let ranges = DEFAULT_IGNORABLE.iter().chain(&SEPARATORS).chain(&OTHERS);
        for c in '\0'..=char::MAX {
            let code = u32::from(c);
            let shows_nothing = c.is_control()
                || ranges.clone().any(|&(first, last)| (first..=last).contains(&code));
            let printed = escape(c.encode_utf8(&mut [0; 4])).to_string();
            let is_escaped = printed.starts_with('\\') && printed.len() > 1;
            assert_eq!(is_escaped, shows_nothing || c == '\\', "U+{code:04X} prints as {printed}");
        }
    }

    #[test]
    fn ordinary_text_of_any_script_is_kept() {
        for text in
            ["token_embd.weight", "Ġthe", "模型", "naïve – ok", "한국어", "हिन्दी", "\u{1f600}"]
        {
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
    fn a_shortened_text_has_the_given_number_of_characters_and_an_ellipsis() {
        assert_eq!(escape("abcdef").shortened(3).to_string(), "abc…");
        assert_eq!(escape("abc").shortened(3).to_string(), "abc");
        assert_eq!(escape(b"ab\xff\xff").shortened(3).to_string(), "ab\\xff…");
    }
}
