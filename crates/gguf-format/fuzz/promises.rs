//! Promises that hold for every input. The fuzz target, the fuzzer for stable toolchains and the tests
//! share them.
#![allow(clippy::unwrap_used, reason = "a broken promise is reported by panicking")]

use gguf_format::{Error, Gguf, Limits, Value, ValueType};

/// Parses `bytes` and panics if a promise of the library is broken. Returns the error's code, or `None`
/// for a valid file.
///
/// 1. No query of a parsed file panics.
/// 2. A parsed file is consistent: ranges are inside the file, each at the padded end of the one before
///    it and as long as shape and type require; names are unique; arrays have their announced lengths.
///    Keys and strings print on one line without control characters.
/// 3. An error has a listed code and a message of one line without control characters.
/// 4. A prefix gives the same result or requests more bytes, and the requests end.
pub(crate) fn check(bytes: &[u8]) -> Option<&'static str> {
    let whole = Gguf::parse(bytes);
    let code = match &whole {
        Ok(gguf) => {
            check_catalogue(gguf, bytes.len() as u64);
            check_metadata(gguf);
            None
        }
        Err(error) => {
            assert!(Error::ALL_CODES.contains(&error.facts()));
            assert!(!matches!(error, Error::Incomplete { .. } | Error::Io { .. }));
            assert!(!error.to_string().chars().any(char::is_control));
            Some(error.code())
        }
    };
    check_prefixes(bytes, code);
    code
}

/// Checks what users of a parsed file rely on.
fn check_catalogue(gguf: &Gguf<'_>, file_len: u64) {
    assert!(gguf.alignment().is_power_of_two());
    assert!(gguf.data_offset() <= file_len);
    let padded = |offset: u64| offset.next_multiple_of(gguf.alignment());
    let mut end = padded(gguf.data_offset());
    for tensor in gguf.tensors() {
        let (shape, ggml_type, range) = (tensor.shape(), tensor.ggml_type(), tensor.range());
        assert!(range.start <= range.end && range.end <= file_len);
        assert!(range.start >= gguf.data_offset());
        assert_eq!(ggml_type.bytes_for(shape.elements()), Some(tensor.byte_len()));
        assert_eq!(shape.row_len() % ggml_type.block_len(), 0);
        assert_eq!(shape.row_len() * shape.rows(), shape.elements());
        assert_eq!(gguf.tensor(tensor.name()), Some(tensor));
        // A tensor without elements may be behind padding that the file does not have.
        assert!(range.start == padded(end) || (range.is_empty() && range.start == file_len));
        end = range.end.max(end);
    }
    assert!(gguf.data_end() <= file_len);
    assert_eq!(gguf.trailing_bytes(), file_len.saturating_sub(padded(gguf.data_end())));
}

/// Checks that keys and strings, which need not be UTF-8, print on one line without control characters.
fn check_metadata(gguf: &Gguf<'_>) {
    for (key, value) in gguf.metadata().iter() {
        assert!(!format!("{key} = {value}").chars().any(char::is_control));
        if let Ok(key) = key.as_str() {
            assert!(gguf.metadata().contains(key));
            let text = gguf.metadata().optional::<&str>(key);
            let is_text = value.as_text().is_some_and(|text| text.as_str().is_ok());
            assert_eq!(text.is_ok(), is_text);
        }
        exhaust(value);
    }
}

/// Reads everything in a value. No array may end early.
fn exhaust(value: Value<'_>) {
    let Value::Array(array) = value else { return };
    let count = match array.element_type() {
        ValueType::String => {
            let _ = array.as_strings().unwrap().filter(Result::is_ok).count();
            array.as_byte_strings().unwrap().count()
        }
        ValueType::Array => {
            array.as_arrays().unwrap().inspect(|inner| exhaust(Value::Array(*inner))).count()
        }
        fixed => array.as_bytes().len() / fixed.size().unwrap() as usize,
    };
    assert_eq!(count, array.len());
}

/// Reads the file as `GgufFile` does: more and more of it, until there is a result.
fn check_prefixes(bytes: &[u8], code: Option<&'static str>) {
    let mut have = 0;
    let answer = loop {
        let parsed = Gguf::parse_header(&bytes[..have], bytes.len() as u64, &Limits::default());
        match parsed {
            Err(Error::Incomplete { needed }) => {
                let needed = usize::try_from(needed).unwrap();
                assert!(needed > have && needed <= bytes.len());
                have = needed.max(have + bytes.len() / 16);
                have = have.min(bytes.len());
            }
            Err(other) => break Some(other.code()),
            Ok(_) => break None,
        }
    };
    assert_eq!(answer, code);
}
