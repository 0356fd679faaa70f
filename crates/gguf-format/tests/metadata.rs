//! Results of typed metadata queries.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use gguf_format::{
    Array, ByteStrings, Elements, Error, ErrorClass, Gguf, Metadata, Strings, Text, Value,
    ValueType,
};
use raw::{ARRAY, Raw, STRING, U8, array, string, valid};

fn with_metadata(test: impl FnOnce(&Metadata<'_>)) {
    test(Gguf::parse(&valid().bytes()).unwrap().metadata());
}

#[test]
fn every_type_is_read_as_itself() {
    with_metadata(|m| {
        assert_eq!(m.require::<&str>("general.architecture").unwrap(), "phi3");
        assert_eq!(m.require::<u8>("a.u8").unwrap(), 200);
        assert_eq!(m.require::<i8>("a.i8").unwrap(), -1);
        assert_eq!(m.require::<u16>("a.u16").unwrap(), 60_000);
        assert_eq!(m.require::<i16>("a.i16").unwrap(), -2);
        assert_eq!(m.require::<u32>("a.u32").unwrap(), 7);
        assert_eq!(m.require::<i32>("a.i32").unwrap(), -7);
        assert_eq!(m.require::<f32>("a.f32").unwrap(), 1.5);
        assert!(m.require::<bool>("a.bool").unwrap());
        assert_eq!(m.require::<u64>("a.u64").unwrap(), 1 << 40);
        assert_eq!(m.require::<i64>("a.i64").unwrap(), -1 << 40);
        assert_eq!(m.require::<f64>("a.f64").unwrap(), 2.5);
        assert_eq!(m.require::<Array<'_>>("a.tokens").unwrap().len(), 3);
    });
}

#[test]
fn integers_of_any_type_are_accepted_if_they_fit() {
    with_metadata(|m| {
        assert_eq!(m.require::<u64>("a.u8").unwrap(), 200);
        assert_eq!(m.require::<u8>("a.u32").unwrap(), 7);
        assert_eq!(m.require::<i64>("a.i32").unwrap(), -7);
        assert_eq!(m.require::<i32>("a.u16").unwrap(), 60_000);
    });
}

#[test]
fn integers_that_do_not_fit_are_refused_with_their_value() {
    with_metadata(|m| {
        let error = m.require::<u32>("a.i32").unwrap_err();
        assert!(matches!(error, Error::OutOfRange { expected: "u32", value: -7, .. }));
        let error = m.require::<u32>("a.u64").unwrap_err();
        assert!(matches!(error, Error::OutOfRange { value, .. } if value == 1 << 40));
        assert_eq!(error.class(), ErrorClass::Malformed);
        let error = m.require::<i8>("a.u8").unwrap_err();
        assert_eq!(error.to_string(), "the key \"a.u8\" is 200, which is out of range for i8");
    });
}

#[test]
fn floats_widen_and_never_narrow_or_mix_with_integers() {
    with_metadata(|m| {
        assert_eq!(m.require::<f64>("a.f32").unwrap(), 1.5);
        for (key, found) in [("a.f64", "f64"), ("a.u32", "u32"), ("a.bool", "bool")] {
            let error = m.require::<f32>(key).unwrap_err();
            assert!(
                matches!(error, Error::WrongType { expected: "f32", found: f, .. } if f == found)
            );
        }
        assert!(matches!(m.require::<u32>("a.f32"), Err(Error::WrongType { .. })));
        assert!(matches!(m.require::<u8>("a.bool"), Err(Error::WrongType { .. })));
    });
}

#[test]
fn absent_keys_are_none_or_missing_and_wrong_types_are_never_absent() {
    with_metadata(|m| {
        assert_eq!(m.optional::<u32>("nowhere").unwrap(), None);
        assert!(
            matches!(m.require::<u32>("nowhere"), Err(Error::Missing { key }) if key == "nowhere")
        );
        assert!(matches!(m.optional::<u32>("a.tokens"), Err(Error::WrongType { .. })));
        assert!(m.contains("a.u8") && !m.contains("a.u9"));
        assert_eq!(m.get("a.u9"), None);
    });
}

#[test]
fn errors_about_arrays_name_the_actual_type() {
    with_metadata(|m| {
        let error = m.require::<Strings<'_>>("a.scores").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the key \"a.scores\" must be array of string, but is array of f32"
        );
        let error = m.require::<Elements<'_, u32>>("a.tokens").unwrap_err();
        assert_eq!(error.code(), "GGUF_WRONG_TYPE");
        assert!(m.require::<Array<'_>>("a.u8").is_err());
    });
}

#[test]
fn arrays_are_read_in_order_with_exact_sizes() {
    with_metadata(|m| {
        let scores: Elements<'_, f32> = m.require("a.scores").unwrap();
        assert_eq!(scores.len(), 2);
        assert_eq!(scores.collect::<Vec<_>>(), [0.5, -1.0]);
        let tokens: Strings<'_> = m.require("a.tokens").unwrap();
        assert_eq!(tokens.len(), 3);
        assert_eq!(tokens.collect::<Result<Vec<_>, _>>().unwrap(), ["<s>", "", "é"]);
        let raw: ByteStrings<'_> = m.require("a.tokens").unwrap();
        assert_eq!(raw.map(<[u8]>::len).collect::<Vec<_>>(), [3, 0, 2]);
    });
}

#[test]
fn nested_arrays_are_read_one_level_at_a_time() {
    let file = valid().bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let outer: Array<'_> = gguf.metadata().require("a.nested").unwrap();
    let inner: Vec<_> = outer.as_arrays().unwrap().collect();
    assert_eq!(inner.len(), 2);
    assert_eq!(inner[0].iter::<u8>().unwrap().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(inner[1].as_strings().unwrap().next().unwrap().unwrap(), "x");
    for array in inner {
        let at = array.offset() as usize;
        assert_eq!(&file[at..at + array.as_bytes().len()], array.as_bytes());
    }
    assert!(outer.as_strings().is_none() && outer.iter::<u8>().is_none());
}

#[test]
fn elements_can_be_skipped() {
    let values: Vec<u8> = (0..100u16).flat_map(u16::to_le_bytes).collect();
    let file = Raw::default().kv("k", ARRAY, array(2, 100, values)).bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let elements: Elements<'_, u16> = gguf.metadata().require("k").unwrap();
    assert_eq!(elements.clone().nth(42), Some(42));
    assert_eq!(elements.clone().skip(90).len(), 10);
    assert_eq!(elements.clone().nth(100), None);
    assert_eq!(elements.clone().nth(usize::MAX), None);
}

#[test]
fn file_order_is_kept() {
    with_metadata(|m| {
        let keys: Vec<_> = m.iter().map(|(key, _)| key).collect();
        assert_eq!(keys[..4], ["general.architecture", "a.u8", "a.i8", "a.u16"]);
        assert_eq!(keys.len(), m.len());
        let types: Vec<_> = m.iter().skip(1).take(9).map(|(_, value)| value.value_type()).collect();
        assert_eq!(types[..2], [ValueType::U8, ValueType::I8]);
        assert_eq!(types[8], ValueType::U64);
    });
}

#[test]
fn values_print_on_one_line() {
    for (value, text) in [
        (Value::String("a\nb\u{1b}".into()), "\"a\\nb\\u{1b}\""),
        (Value::String((&b"Andr\xe9"[..]).into()), "\"Andr\\xe9\""),
        (Value::F32(0.25), "0.25"),
        (Value::Bool(false), "false"),
        (Value::I64(-3), "-3"),
    ] {
        assert_eq!(value.to_string(), text);
    }
    with_metadata(|m| assert_eq!(m.get("a.tokens").unwrap().to_string(), "array of 3 string"));
}

const NO_UTF8: [&[u8]; 5] = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"];

#[test]
fn a_string_that_is_not_utf8_is_an_error_only_if_requested_as_text() {
    for bad in NO_UTF8 {
        let file = Raw::default().kv("general.author", STRING, string(bad)).bytes();
        let gguf = Gguf::parse(&file).unwrap();
        let metadata = gguf.metadata();
        let at = file.len() - bad.len() - 8;
        for error in [
            metadata.require::<&str>("general.author").unwrap_err(),
            metadata.optional::<&str>("general.author").unwrap_err(),
        ] {
            assert_eq!((error.code(), error.class()), ("GGUF_INVALID_UTF8", ErrorClass::Malformed));
            let text =
                format!("at byte {at}: the value of key \"general.author\" is not valid UTF-8");
            assert!(error.to_string().ends_with(&text), "{error}");
        }
        // If it is requested as another type, it has the wrong type, whatever its bytes.
        let error = metadata.optional::<u32>("general.author").unwrap_err();
        assert_eq!(error.code(), "GGUF_WRONG_TYPE");
        assert_eq!(metadata.require::<Text<'_>>("general.author").unwrap().as_bytes(), bad);
        let value = metadata.get("general.author").unwrap();
        assert_eq!((value.as_str(), value.as_text().map(Text::as_bytes)), (None, Some(bad)));
        assert!(value.to_string().contains("\\x"), "{value}");
    }
}

#[test]
fn a_key_that_is_not_utf8_is_listed_but_not_found_by_lookup() {
    for bad in NO_UTF8 {
        let file = Raw::default().kv(bad, U8, [1]).kv("b", U8, [2]).bytes();
        let gguf = Gguf::parse(&file).unwrap();
        let metadata = gguf.metadata();
        assert_eq!((metadata.len(), metadata.require::<u8>("b").unwrap()), (2, 2));
        let (key, value) = metadata.iter().next().unwrap();
        assert_eq!((key.as_bytes(), value), (bad, Value::U8(1)));
        assert!(key.to_string().contains("\\x"), "{key}");
        // The escaped form of a name does not find the name.
        assert!(!metadata.contains(&key.to_string()));
        // As other keys, it must not occur twice, and its errors show it on one line.
        let twice = Raw::default().kv(bad, U8, [1]).kv(bad, U8, [1]).bytes();
        assert_eq!(Gguf::parse(&twice).unwrap_err().code(), "GGUF_DUPLICATE_KEY");
        let unknown = Raw::default().kv(bad, 13, [1]).bytes();
        assert_eq!(Gguf::parse(&unknown).unwrap_err().code(), "GGUF_UNKNOWN_VALUE_TYPE");
    }
}

#[test]
fn data_are_the_bytes_of_the_tensor() {
    let file = valid().bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let norm = gguf.tensor("output_norm.weight").unwrap();
    let expected: Vec<u8> = (288..320).map(|i| (i % 251) as u8).collect();
    assert_eq!(gguf.data(norm).unwrap(), expected);
    assert_eq!(gguf.tensor("output_norm"), None);
    let mut header = valid().header();
    header.resize(header.len().next_multiple_of(32), 0);
    let limits = gguf_format::Limits::default();
    let parsed = Gguf::parse_header(&header, file.len() as u64, &limits).unwrap();
    assert_eq!(parsed.data(parsed.tensor("output_norm.weight").unwrap()), None);
}
