//! Formats the values of a file's metadata: short in reports, whole if the user asks for a key.

use gguf_format::{Array, Element, Text, Value, escape};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// The number of array elements shown in a report. JSON reports contain no elements of arrays.
const SHOWN_ELEMENTS: usize = 4;

/// The number of characters of a string shown in a report. A single string can be most of a header.
const SHOWN_CHARS: usize = 200;

/// A JSON report contains the whole string if it has at most this number of bytes.
const WHOLE_BYTES: usize = 64 << 10;

/// Converts a text to UTF-8 for JSON. If the text is not UTF-8, escapes it: an invalid byte 0xff becomes
/// `\xff`.
pub(super) fn document_text(text: Text<'_>) -> Cow<'_, str> {
    text.as_str().map_or_else(|_| text.to_string().into(), Cow::Borrowed)
}

/// A value in a JSON report. For an array it contains only type and length, and for a long string only start and
/// length. Otherwise a vocabulary would be most of the document.
pub(super) struct ShortValue<'a>(pub(super) Value<'a>);

impl Serialize for ShortValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(array) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("array_of", array.element_type().name())?;
                map.serialize_entry("length", &array.len())?;
                map.end()
            }
            Value::String(text) if text.as_bytes().len() > WHOLE_BYTES => {
                let whole = document_text(text);
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("string_bytes", &text.as_bytes().len())?;
                map.serialize_entry("start", &whole[..whole.floor_char_boundary(SHOWN_CHARS)])?;
                map.end()
            }
            value => WholeValue(value).serialize(serializer),
        }
    }
}

/// A value in JSON, with all elements of an array.
pub(super) struct WholeValue<'a>(pub(super) Value<'a>);

impl Serialize for WholeValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(array) => serializer.collect_seq(elements(array).map(WholeValue)),
            Value::String(text) => serializer.serialize_str(&document_text(text)),
            Value::Bool(flag) => serializer.serialize_bool(flag),
            // JSON cannot represent infinities and NaN, so write them as strings.
            Value::F32(number) if !number.is_finite() => serializer.collect_str(&number),
            Value::F64(number) if !number.is_finite() => serializer.collect_str(&number),
            Value::F32(number) => serializer.serialize_f64(number.into()),
            Value::F64(number) => serializer.serialize_f64(number),
            integer => integer.as_integer().serialize(serializer),
        }
    }
}

fn elements(array: Array<'_>) -> Box<dyn Iterator<Item = Value<'_>> + '_> {
    fn numbers<'a, T: Element + 'a>(
        array: Array<'a>,
        value: fn(T) -> Value<'a>,
    ) -> Option<Box<dyn Iterator<Item = Value<'a>> + 'a>> {
        Some(Box::new(array.iter()?.map(value)))
    }
    if let Some(strings) = array.as_byte_strings() {
        return Box::new(strings.map(|string| Value::String(string.into())));
    }
    if let Some(arrays) = array.as_arrays() {
        return Box::new(arrays.map(Value::Array));
    }
    numbers(array, Value::U8)
        .or_else(|| numbers(array, Value::I8))
        .or_else(|| numbers(array, Value::U16))
        .or_else(|| numbers(array, Value::I16))
        .or_else(|| numbers(array, Value::U32))
        .or_else(|| numbers(array, Value::I32))
        .or_else(|| numbers(array, Value::F32))
        .or_else(|| numbers(array, Value::Bool))
        .or_else(|| numbers(array, Value::U64))
        .or_else(|| numbers(array, Value::I64))
        .or_else(|| numbers(array, Value::F64))
        .unwrap_or_else(|| Box::new(std::iter::empty()))
}

/// Formats a value in a report. Of a long value, shows only the start and the length.
pub(super) fn short_text(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => quoted(text.as_bytes()),
        Value::Array(array) => {
            let mut text = format!("{} x {}", array.len(), array.element_type().name());
            if let Some(strings) = array.as_byte_strings() {
                let shown: Vec<_> = strings.take(SHOWN_ELEMENTS).map(quoted).collect();
                text += &format!(": {}", shown.join(", "));
                if array.len() > SHOWN_ELEMENTS {
                    text += ", ...";
                }
            }
            text
        }
        number => number.to_string(),
    }
}

/// Formats a string in quotes. If it is long, shows only its start and its length.
fn quoted(string: &[u8]) -> String {
    let shown = escape(string).shortened(SHOWN_CHARS);
    if string.len() > SHOWN_CHARS {
        format!("\"{shown}\" ({} bytes)", string.len())
    } else {
        format!("\"{shown}\"")
    }
}

/// Writes a whole value and a line end. Of an array, writes each element on a line of its own, escaped. A string that
/// goes to a file or a pipe is written as it is in the GGUF file. On a terminal, all but its line ends is escaped.
pub(super) fn write_whole(out: &mut dyn Write, value: Value<'_>) -> io::Result<()> {
    match value {
        Value::Array(array) => {
            elements(array).try_for_each(|element| writeln!(out, "{}", line(element)))
        }
        Value::String(text) if !io::stdout().is_terminal() => {
            out.write_all(text.as_bytes())?;
            writeln!(out)
        }
        Value::String(text) => {
            let mut lines = text.as_bytes().split(|&byte| byte == b'\n');
            lines.try_for_each(|line| writeln!(out, "{}", escape(line)))
        }
        number => writeln!(out, "{number}"),
    }
}

/// Formats a value on one line.
fn line(value: Value<'_>) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Array(array) => {
            let elements: Vec<_> = elements(array).map(line).collect();
            format!("[{}]", elements.join(", "))
        }
        number => number.to_string(),
    }
}
