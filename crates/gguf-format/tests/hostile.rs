//! Files that broke other readers, one test for each. Each test names the expected error, so that a
//! reader which refuses a file for another reason fails the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use gguf_format::{
    Error, ErrorClass, GgmlType, Gguf, Item, Limits, MalformedKind, UnsupportedKind,
};
use raw::{ARRAY, BOOL, F32, Q4_K, Raw, STRING, U8, U32, U64, array, info, kv, string, valid};

/// Lengths and counts that overflow, become negative or are truncated in some reader.
const HUGE: [u64; 12] = [
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 1,
    (1 << 62) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 23,
    u64::MAX - 1,
    u64::MAX,
];

#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let error = Gguf::parse(bytes).expect_err("the file must be refused");
    assert!(Error::ALL_CODES.contains(&error.facts()), "{} is not in the list", error.code());
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
    error
}

#[track_caller]
fn malformed(bytes: &[u8]) -> MalformedKind {
    match refusal(bytes) {
        Error::Malformed { kind, .. } => kind,
        other => panic!("not malformed: {other:?}"),
    }
}

#[track_caller]
fn unsupported(bytes: &[u8]) -> UnsupportedKind {
    match refusal(bytes) {
        Error::Unsupported { kind, .. } => kind,
        other => panic!("not unsupported: {other:?}"),
    }
}

#[track_caller]
fn truncated(bytes: &[u8]) -> Item {
    match refusal(bytes) {
        Error::Truncated { item, offset, needed, available } => {
            assert!(needed > available);
            if let Item::TensorData { name, file_end, file_len } = item {
                assert_eq!(file_len, bytes.len() as u64);
                // All bytes that the file lacks, of this tensor and of those after it.
                assert!(file_end >= offset.saturating_add(needed));
                return data_of(&name);
            }
            item
        }
        other => panic!("not truncated: {other:?}"),
    }
}

#[track_caller]
fn over_limit(bytes: &[u8]) -> (&'static str, u64, u64) {
    match refusal(bytes) {
        Error::Limit { what, value, limit, .. } => {
            assert!(value > limit);
            (what, value, limit)
        }
        other => panic!("not over limit: {other:?}"),
    }
}

/// As [`truncated`], without the actual and the required length of the file.
fn data_of(name: &str) -> Item {
    Item::TensorData { name: name.to_owned(), file_end: 0, file_len: 0 }
}

fn one_tensor(dims: &[u64], type_id: u32, at: u64) -> Vec<u8> {
    Raw::default().tensor("t", dims, type_id, at).data(4096).bytes()
}

mod magic_and_version {
    use super::*;

    #[test]
    fn the_valid_file_is_accepted() {
        let bytes = valid().bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().tensors().len(), 3);
    }

    #[test]
    fn empty_file() {
        assert_eq!(truncated(b""), Item::Magic);
    }

    #[test]
    fn wrong_magic() {
        let bytes = Raw { magic: b"GGML".to_vec(), ..valid() }.bytes();
        assert_eq!(
            malformed(&bytes),
            MalformedKind::BadMagic { found: *b"GGML", looks_like: None }
        );
    }

    #[test]
    fn version_1_is_refused_by_name() {
        let bytes = Raw { version: 1, ..valid() }.bytes();
        assert_eq!(unsupported(&bytes), UnsupportedKind::Version { version: 1 });
    }

    #[test]
    fn versions_beyond_3_and_0_are_refused_with_their_number() {
        for version in [0, 4, 5, 0x8000_0003, u32::MAX] {
            let bytes = Raw { version, ..valid() }.bytes();
            assert_eq!(unsupported(&bytes), UnsupportedKind::Version { version });
        }
    }

    #[test]
    fn big_endian_is_refused_by_name() {
        for version in 1u32..=3 {
            let bytes = Raw { version: version.swap_bytes(), ..valid() }.bytes();
            assert_eq!(unsupported(&bytes), UnsupportedKind::BigEndian { version });
        }
    }

    #[test]
    fn version_2_is_read_like_3() {
        let bytes = Raw { version: 2, ..valid() }.bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().version(), 2);
    }
}

mod truncation {
    use super::*;

    #[test]
    fn at_every_byte() {
        let bytes = valid().bytes();
        for len in 0..bytes.len() {
            let error = refusal(&bytes[..len]);
            assert!(matches!(error, Error::Truncated { .. }), "{len}: {error:?}");
        }
    }

    #[test]
    fn a_prefix_of_a_longer_file_requests_more_bytes() {
        let bytes = valid().bytes();
        // The padding after the header is also checked.
        let start = valid().header().len().next_multiple_of(32);
        for len in 0..bytes.len() {
            let parsed = Gguf::parse_header(&bytes[..len], bytes.len() as u64, &Limits::default());
            match parsed {
                Ok(_) => assert!(len >= start),
                Err(Error::Incomplete { needed }) => {
                    assert!(len < start && needed > len as u64 && needed <= start as u64);
                }
                Err(other) => panic!("{len}: {other:?}"),
            }
        }
    }

    /// Returns a file whose descriptions end on the alignment, and whose data start with these bytes.
    fn without_padding(data: &[u8]) -> Vec<u8> {
        let mut file = Raw::default().tensor("t", &[32], F32, 0).data(128);
        let len = file.header().len();
        file = file.kv("k".repeat(32 - (len + 8 + 4 + 1) % 32), U8, [1]);
        assert_eq!(file.header().len() % 32, 0);
        file.data[..data.len()].copy_from_slice(data);
        file.bytes()
    }

    #[test]
    fn without_padding_only_the_length_of_a_name_is_requested() {
        let limits = Limits::default().with_max_name_len(100);
        let parse = |prefix: &[u8], bytes: &[u8]| {
            Gguf::parse_header(prefix, bytes.len() as u64, &limits).map(drop)
        };
        // Names of no bytes, or of this length, are invalid.
        for data in [[0; 8], [0xff; 8], 101u64.to_le_bytes()] {
            let bytes = without_padding(&data);
            let start = bytes.len() - 128;
            assert!(matches!(
                parse(&bytes[..start], &bytes),
                Err(Error::Incomplete { needed }) if needed == start as u64 + 8
            ));
            assert!(parse(&bytes[..start + 8], &bytes).is_ok());
        }
        // A name that is longer than ggml's but within the limit: every prefix gives the same result.
        let description = info("n".repeat(70), &[], F32, 128);
        let bytes = without_padding(&description);
        let start = bytes.len() - 128;
        for len in start..bytes.len() {
            match parse(&bytes[..len], &bytes) {
                Err(Error::Incomplete { needed }) => assert!(needed > len as u64),
                Err(error) => assert_eq!(error.code(), "GGUF_HEADER_PADDING"),
                Ok(()) => panic!("{len}"),
            }
        }
        assert!(parse(&bytes, &bytes).is_err());
    }

    #[test]
    fn a_file_that_is_now_shorter_than_the_prefix_is_parsed_with_its_new_length() {
        let bytes = valid().bytes();
        let error = Gguf::parse_header(&bytes, 100, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }));
    }

    #[test]
    fn a_file_may_end_before_a_tensor_without_elements_if_only_padding_is_missing() {
        let file = Raw::default().tensor("a", &[9], F32, 0).tensor("b", &[0], F32, 64).data(36);
        let bytes = file.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let end = bytes.len() as u64;
        assert_eq!(gguf.tensors()[0].range(), end - 36..end);
        assert_eq!(gguf.tensors()[1].range(), end..end);
        assert_eq!(gguf.data(&gguf.tensors()[1]), Some(&[][..]));
        // The file is the header without padding.
        let bytes = Raw::default().tensor("t", &[0], F32, 0).bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let end = bytes.len() as u64;
        assert_eq!((gguf.data_offset(), gguf.tensors()[0].range()), (end, end..end));
    }

    #[test]
    fn data_missing_before_a_tensor_without_elements_are_truncation() {
        let file = Raw::default().tensor("a", &[9], F32, 0).tensor("b", &[0], F32, 64).data(35);
        assert_eq!(truncated(&file.bytes()), data_of("a"));
    }

    #[test]
    fn only_the_padding_of_the_last_tensor_may_be_missing() {
        let file = |len| Raw::default().tensor("t", &[9], F32, 0).data(len).bytes();
        assert!(Gguf::parse(&file(36)).is_ok());
        assert_eq!(truncated(&file(35)), data_of("t"));
    }
}

mod counts_and_lengths {
    use super::*;

    #[test]
    fn kv_count() {
        for count in HUGE {
            let bytes = Raw { kv_count: Some(count), ..valid() }.bytes();
            assert_eq!(truncated(&bytes), Item::KeyValues { count });
        }
    }

    #[test]
    fn kv_count_one_too_many() {
        let file = valid();
        let count = file.kvs.len() as u64 + 1;
        refusal(&Raw { kv_count: Some(count), ..file }.bytes());
    }

    #[test]
    fn tensor_count() {
        for count in HUGE {
            let bytes = Raw { tensor_count: Some(count), ..valid() }.bytes();
            assert_eq!(truncated(&bytes), Item::TensorInfos { count });
        }
    }

    #[test]
    fn counts_that_fit_into_the_file_but_exceed_the_limits() {
        let limits = Limits::default().with_max_kv(14).with_max_tensors(2);
        let bytes = valid().bytes();
        let error = Gguf::parse_with(&bytes, &limits).unwrap_err();
        assert!(matches!(error, Error::Limit { value: 15, limit: 14, .. }), "{error:?}");
        let error = Gguf::parse_with(&bytes, &limits.with_max_kv(15)).unwrap_err();
        assert!(matches!(error, Error::Limit { value: 3, limit: 2, .. }), "{error:?}");
    }

    #[test]
    fn key_length() {
        for len in HUGE {
            let mut pair = kv("key", U8, [1]);
            pair[..8].copy_from_slice(&len.to_le_bytes());
            let bytes = Raw { kvs: vec![pair], ..Raw::default() }.data(64).bytes();
            assert_eq!(truncated(&bytes), Item::Key { index: 0 });
        }
    }

    #[test]
    fn key_of_65535_bytes_is_the_longest() {
        let file = |len| Raw::default().kv(vec![b'k'; len], U8, [1]).bytes();
        assert_eq!(Gguf::parse(&file(65_535)).unwrap().metadata().len(), 1);
        assert_eq!(over_limit(&file(65_536)), ("the length of a key in bytes", 65_536, 65_535));
    }

    #[test]
    fn string_length() {
        for len in HUGE {
            let mut value = string("text");
            value[..8].copy_from_slice(&len.to_le_bytes());
            let bytes = Raw::default().kv("k", STRING, value).data(64).bytes();
            assert_eq!(truncated(&bytes), Item::Value { key: "k".into() });
        }
    }

    #[test]
    fn tensor_name_length() {
        for len in HUGE {
            let mut tensor = info("name", &[1], F32, 0);
            tensor[..8].copy_from_slice(&len.to_le_bytes());
            let bytes = Raw { infos: vec![tensor], ..Raw::default() }.data(64).bytes();
            assert_eq!(truncated(&bytes), Item::TensorName { index: 0 });
        }
    }

    #[test]
    fn tensor_name_of_64_bytes_is_the_longest() {
        let file = |len| Raw::default().tensor(vec![b'n'; len], &[1], F32, 0).data(4).bytes();
        assert_eq!(Gguf::parse(&file(64)).unwrap().tensors().len(), 1);
        assert_eq!(over_limit(&file(65)), ("the length of a tensor name in bytes", 65, 64));
    }

    #[test]
    fn array_counts_of_every_element_type() {
        for element in 0..=12 {
            for count in HUGE {
                let value = array(element, count, [0; 64]);
                let bytes = Raw::default().kv("k", ARRAY, value).data(64).bytes();
                assert_eq!(truncated(&bytes), Item::Value { key: "k".into() }, "type {element}");
            }
        }
    }

    #[test]
    fn string_inside_an_array() {
        for len in HUGE {
            let strings = [&string("ok")[..], &len.to_le_bytes(), b"rest"].concat();
            let bytes = Raw::default().kv("k", ARRAY, array(STRING, 2, strings)).data(64).bytes();
            assert_eq!(truncated(&bytes), Item::Value { key: "k".into() });
        }
    }

    #[test]
    fn count_inside_a_nested_array() {
        for count in HUGE {
            for element in [U8, STRING, ARRAY, U64] {
                let inner = [array(U8, 1, [7]), array(element, count, [0; 32])].concat();
                let bytes = Raw::default().kv("k", ARRAY, array(ARRAY, 2, inner)).data(64).bytes();
                assert_eq!(truncated(&bytes), Item::Value { key: "k".into() });
            }
        }
    }

    #[test]
    fn header_beyond_the_limit() {
        let bytes = Raw::default().kv("k", STRING, string(vec![b'x'; 10_000])).bytes();
        let limits = Limits::default().with_max_header_bytes(1000);
        let error = Gguf::parse_with(&bytes, &limits).unwrap_err();
        assert!(matches!(error, Error::Limit { limit: 1000, .. }), "{error:?}");
        let exact = Limits::default().with_max_header_bytes(bytes.len() as u64);
        assert!(Gguf::parse_with(&bytes, &exact).is_ok());
    }
}

mod values {
    use super::*;

    #[test]
    fn unknown_value_types() {
        for id in [13, 14, 255, 1 << 31, u32::MAX] {
            let key = b"k".to_vec();
            let bytes = Raw::default().kv("k", id, [0; 64]).bytes();
            assert_eq!(malformed(&bytes), MalformedKind::UnknownValueType { key: key.clone(), id });
            let bytes = Raw::default().kv("k", ARRAY, array(id, 1, [0; 64])).bytes();
            assert_eq!(malformed(&bytes), MalformedKind::UnknownValueType { key: key.clone(), id });
            let nested = array(ARRAY, 1, array(id, 0, []));
            let bytes = Raw::default().kv("k", ARRAY, nested).bytes();
            assert_eq!(malformed(&bytes), MalformedKind::UnknownValueType { key, id });
        }
    }

    #[test]
    fn booleans_other_than_0_and_1() {
        for value in [2, 0x7f, 0xff] {
            let kind = MalformedKind::InvalidBool { key: "k".into(), value };
            assert_eq!(malformed(&Raw::default().kv("k", BOOL, [value]).bytes()), kind);
            let elements = array(BOOL, 3, [0, 1, value]);
            assert_eq!(malformed(&Raw::default().kv("k", ARRAY, elements).bytes()), kind);
            let nested = array(ARRAY, 1, array(BOOL, 1, [value]));
            assert_eq!(malformed(&Raw::default().kv("k", ARRAY, nested).bytes()), kind);
        }
    }

    /// Returns the value of a key: `depth` levels of arrays around one byte.
    fn nested(depth: usize) -> Vec<u8> {
        [array(ARRAY, 1, []).repeat(depth - 1), array(U8, 1, [7])].concat()
    }

    #[test]
    fn arrays_nested_to_the_limit() {
        let bytes = Raw::default().kv("k", ARRAY, nested(8)).bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let mut array: gguf_format::Array<'_> = gguf.metadata().require("k").unwrap();
        for _ in 1..8 {
            array = array.as_arrays().unwrap().next().unwrap();
        }
        assert_eq!(array.iter::<u8>().unwrap().collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn arrays_nested_too_deep() {
        for depth in [9, 10, 100, 100_000] {
            let bytes = Raw::default().kv("k", ARRAY, nested(depth)).bytes();
            assert_eq!(over_limit(&bytes).0, "the depth of nested arrays");
        }
    }

    #[test]
    fn many_empty_inner_arrays_take_linear_time() {
        let inner = array(U8, 0, []).repeat(200_000);
        let bytes = Raw::default().kv("k", ARRAY, array(ARRAY, 200_000, inner)).bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let array: gguf_format::Array<'_> = gguf.metadata().require("k").unwrap();
        assert_eq!(
            array.as_arrays().unwrap().filter(gguf_format::Array::is_empty).count(),
            200_000
        );
    }
}

mod names {
    use super::*;

    #[test]
    fn duplicate_keys() {
        let bytes = Raw::default().kv("a", U8, [1]).kv("b", U8, [1]).kv("a", U8, [1]).bytes();
        assert_eq!(malformed(&bytes), MalformedKind::DuplicateKey { key: "a".into() });
    }

    #[test]
    fn duplicate_tensors() {
        let bytes = Raw::default()
            .tensor("t", &[1], F32, 0)
            .tensor("u", &[1], F32, 32)
            .tensor("t", &[1], F32, 64)
            .data(128)
            .bytes();
        assert_eq!(malformed(&bytes), MalformedKind::DuplicateTensor { name: "t".into() });
    }

    /// A reader that compares each key with all keys before it takes minutes here.
    #[test]
    fn two_hundred_thousand_keys_take_less_than_quadratic_time() {
        let kvs = (0..200_000).map(|i| kv(format!("{i:06x}"), U8, [1])).collect();
        let mut file = Raw { kvs, ..Raw::default() };
        assert_eq!(Gguf::parse(&file.bytes()).unwrap().metadata().len(), 200_000);
        file.kvs.push(kv(format!("{:06x}", 199_999), U8, [1]));
        let kind = malformed(&file.bytes());
        assert_eq!(kind, MalformedKind::DuplicateKey { key: format!("{:06x}", 199_999).into() });
    }

    #[test]
    fn two_hundred_thousand_tensors_take_less_than_quadratic_time() {
        let mut file = Raw::default().data(200_000 * 32);
        file.infos = (0..200_000u64).map(|i| info(format!("{i:x}"), &[8], F32, i * 32)).collect();
        assert_eq!(Gguf::parse(&file.bytes()).unwrap().tensors().len(), 200_000);
        file.infos.push(info("0", &[8], F32, 0));
        assert!(matches!(malformed(&file.bytes()), MalformedKind::DuplicateTensor { .. }));
    }

    #[test]
    fn empty_key_and_empty_tensor_name() {
        let bytes = Raw::default().kv("", U8, [1]).bytes();
        assert_eq!(malformed(&bytes), MalformedKind::EmptyKey { index: 0 });
        let bytes = Raw::default().tensor("", &[1], F32, 0).data(4).bytes();
        assert_eq!(malformed(&bytes), MalformedKind::EmptyTensorName { index: 0 });
    }

    #[test]
    fn tensor_names_that_are_not_utf8() {
        for bad in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"] {
            let item = |bytes: &[u8]| match malformed(bytes) {
                MalformedKind::InvalidUtf8 { item } => item,
                other => panic!("{other:?}"),
            };
            let bytes = Raw::default().tensor(bad, &[1], F32, 0).data(4).bytes();
            assert_eq!(item(&bytes), Item::TensorName { index: 0 });
        }
    }

    #[test]
    fn a_token_that_is_not_utf8_is_an_error_only_when_it_is_read() {
        let tokens = [string("a"), string(b"\xff\xfe"), string("b")].concat();
        let bytes = Raw::default().kv("tokens", ARRAY, array(STRING, 3, tokens)).bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let strings: gguf_format::Strings<'_> = gguf.metadata().require("tokens").unwrap();
        let read: Vec<_> = strings.collect();
        assert_eq!((read[0].as_ref().unwrap(), read[2].as_ref().unwrap()), (&"a", &"b"));
        let at = bytes.windows(2).position(|pair| pair == b"\xff\xfe").unwrap() as u64;
        assert!(matches!(
            read[1],
            Err(Error::Malformed {
                offset,
                kind: MalformedKind::InvalidUtf8 { item: Item::ArrayElement { index: 1 } }
            }) if offset == at
        ));
        let raw: gguf_format::ByteStrings<'_> = gguf.metadata().require("tokens").unwrap();
        assert_eq!(raw.collect::<Vec<_>>(), [&b"a"[..], b"\xff\xfe", b"b"]);
    }

    #[test]
    fn names_with_terminal_escapes_are_read_but_never_printed_raw() {
        let name = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}";
        let bytes = Raw::default().tensor(name, &[1], F32, 0).data(4).bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().tensors()[0].name(), name);
        // `refusal` checks the message.
        let bytes = Raw::default().tensor(name, &[1], 99, 0).data(4).bytes();
        assert!(!refusal(&bytes).to_string().contains('\u{202e}'));
        let bytes = Raw::default().kv(name, U8, [1]).kv(name, U8, [1]).bytes();
        refusal(&bytes);
    }
}

mod alignment {
    use super::*;

    fn file(type_id: u32, value: &[u8]) -> Raw {
        Raw::default().kv("general.alignment", type_id, value)
    }

    #[test]
    fn that_is_not_a_power_of_two() {
        for value in [0u32, 3, 24, 33, 100, u32::MAX] {
            let bytes =
                file(U32, &value.to_le_bytes()).tensor("t", &[1], F32, 0).data(4096).bytes();
            assert_eq!(malformed(&bytes), MalformedKind::BadAlignment { value });
        }
    }

    #[test]
    fn that_is_absurd() {
        for shift in [25, 30, 31] {
            let value = (1u32 << shift).to_le_bytes();
            let bytes = file(U32, &value).tensor("t", &[1], F32, 0).data(4096).bytes();
            assert_eq!(over_limit(&bytes).0, "general.alignment in bytes");
        }
    }

    #[test]
    fn that_pads_past_the_end_of_the_file() {
        let bytes =
            file(U32, &(1u32 << 20).to_le_bytes()).tensor("t", &[1], F32, 0).data(4096).bytes();
        // The former data are padding now.
        assert_eq!(malformed(&bytes), MalformedKind::HeaderPadding { tensors: 1 });
        let zeros = Raw { data: vec![0; 4096], ..file(U32, &(1u32 << 20).to_le_bytes()) };
        assert_eq!(truncated(&zeros.tensor("t", &[1], F32, 0).bytes()), data_of("t"));
    }

    #[test]
    fn of_the_wrong_type() {
        let values: [(u32, &[u8], &str); 5] = [
            (U64, &32u64.to_le_bytes(), "u64"),
            (5, &32i32.to_le_bytes(), "i32"),
            (U8, &[32], "u8"),
            (STRING, &string("32"), "string"),
            (ARRAY, &array(U32, 1, 32u32.to_le_bytes()), "array of u32"),
        ];
        for (type_id, value, name) in values {
            let error = refusal(&file(type_id, value).bytes());
            assert!(
                matches!(&error, Error::WrongType { key, expected: "u32", found }
                    if key == "general.alignment" && *found == name),
                "{error:?}"
            );
            assert_eq!(error.class(), ErrorClass::Malformed);
        }
    }

    #[test]
    fn of_other_powers_of_two_is_followed() {
        for value in [1u32, 2, 8, 16, 64, 4096] {
            let mut raw = file(U32, &value.to_le_bytes())
                .tensor("t", &[4], F32, 0)
                .tensor("u", &[1], F32, u64::from(value.max(16)))
                .data(value.max(16) as usize + 4);
            raw.alignment = value as usize;
            let bytes = raw.bytes();
            let gguf = Gguf::parse(&bytes).unwrap();
            assert_eq!(gguf.alignment(), u64::from(value));
            assert_eq!(gguf.data_offset() % u64::from(value), 0);
            assert_eq!(gguf.tensor("u").unwrap().range().end, bytes.len() as u64);
        }
    }
}

mod tensors {
    use super::*;

    #[test]
    fn too_many_dimensions() {
        for n_dims in [5u32, 6, 1 << 31, u32::MAX] {
            let mut tensor = info("t", &[1; 5], F32, 0);
            tensor[9..13].copy_from_slice(&n_dims.to_le_bytes());
            let bytes = Raw { infos: vec![tensor], ..Raw::default() }.data(4096).bytes();
            assert_eq!(
                malformed(&bytes),
                MalformedKind::TooManyDimensions { name: "t".into(), n_dims }
            );
        }
    }

    #[test]
    fn products_of_dimensions_that_overflow() {
        let cases: [&[u64]; 9] = [
            &[1 << 32, 1 << 32],
            &[1 << 63],
            &[u64::MAX],
            &[1 << 63, 2],
            &[u64::MAX, u64::MAX, u64::MAX, u64::MAX],
            // If the product overflows, it is 2^20.
            &[1 << 20, (1 << 44) + 1],
            &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
            &[1 << 32, 1 << 32, 0],
            &[0, 1 << 63],
        ];
        for dims in cases {
            assert_eq!(
                malformed(&one_tensor(dims, F32, 0)),
                MalformedKind::TooManyElements { name: "t".into(), dims: dims.to_vec() }
            );
        }
    }

    #[test]
    fn sizes_in_bytes_that_overflow() {
        for dims in [&[(1 << 62) + 256][..], &[1 << 31, 1 << 31], &[(1 << 63) - 1]] {
            assert_eq!(
                malformed(&one_tensor(dims, F32, 0)),
                MalformedKind::TensorOverflow { name: "t".into(), offset: 0 }
            );
        }
    }

    #[test]
    fn exabytes_in_a_small_file() {
        for dims in [&[1 << 60][..], &[1 << 30, 1 << 30]] {
            assert_eq!(truncated(&one_tensor(dims, 24, 0)), data_of("t"));
        }
    }

    #[test]
    fn rows_of_partial_blocks_although_the_total_is_whole() {
        for (dims, row_len) in [(&[128, 2][..], 128), (&[1, 256], 1), (&[384, 2, 1], 384)] {
            assert_eq!(
                malformed(&one_tensor(dims, Q4_K, 0)),
                MalformedKind::PartialBlock {
                    name: "t".into(),
                    ggml_type: GgmlType::Q4_K,
                    row_len
                }
            );
        }
    }

    #[test]
    fn a_scalar_is_not_a_whole_block() {
        assert!(matches!(
            malformed(&one_tensor(&[], Q4_K, 0)),
            MalformedKind::PartialBlock { row_len: 1, .. }
        ));
    }

    #[test]
    fn unknown_types_are_refused_with_their_number() {
        for id in [43, 44, 99, 1000, 1 << 31, u32::MAX] {
            assert_eq!(
                unsupported(&one_tensor(&[32], id, 0)),
                UnsupportedKind::UnknownTensorType { name: "t".into(), id }
            );
        }
    }

    #[test]
    fn removed_types_are_refused_by_name() {
        for (id, removed) in [(4, "Q4_2"), (5, "Q4_3"), (31, "Q4_0_4_4"), (38, "IQ4_NL_8_8")] {
            assert_eq!(
                unsupported(&one_tensor(&[32], id, 0)),
                UnsupportedKind::RemovedTensorType { name: "t".into(), id, removed }
            );
        }
    }

    #[test]
    fn bf16_has_two_bytes_for_each_element() {
        let bytes = Raw::default().tensor("t", &[3], 30, 0).data(6).bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.tensors()[0].byte_len(), 6);
    }

    #[test]
    fn every_type_is_catalogued_with_its_size() {
        for &ggml_type in GgmlType::ALL {
            let (dims, bytes) = ([ggml_type.block_len(), 3], ggml_type.block_bytes() * 3);
            let file = Raw::default().tensor("t", &dims, ggml_type.id(), 0).data(bytes as usize);
            let file = file.bytes();
            let gguf = Gguf::parse(&file).unwrap();
            assert_eq!(gguf.tensors()[0].ggml_type(), ggml_type);
            assert_eq!(gguf.tensors()[0].byte_len(), bytes);
            assert_eq!(truncated(&file[..file.len() - 1]), data_of("t"));
        }
    }

    #[test]
    fn offsets_off_the_alignment() {
        for offset in [1, 4, 16, 31, 33, u64::MAX] {
            assert_eq!(
                malformed(&one_tensor(&[1], F32, offset)),
                MalformedKind::MisalignedTensor { name: "t".into(), offset, alignment: 32 }
            );
        }
    }

    #[test]
    fn offsets_past_the_end() {
        for offset in [32, 4096, 8192, 1 << 31, 1 << 32, 1 << 62, 1 << 63] {
            assert_eq!(malformed(&one_tensor(&[1], F32, offset)), misplaced("t", offset, 0, None));
        }
    }

    #[test]
    fn offsets_that_wrap() {
        for offset in [u64::MAX - 31, u64::MAX - 63] {
            assert_eq!(
                malformed(&one_tensor(&[64], F32, offset)),
                MalformedKind::TensorOverflow { name: "t".into(), offset }
            );
        }
    }

    fn misplaced(name: &str, offset: u64, expected: u64, before: Option<&str>) -> MalformedKind {
        MalformedKind::MisplacedTensor {
            name: name.to_owned(),
            ggml_type: GgmlType::F32,
            offset,
            expected,
            before: before.map(|name| Box::new((name.to_owned(), GgmlType::F32))),
        }
    }

    #[test]
    fn gaps_overlaps_and_other_orders() {
        let file = |a, b| {
            Raw::default().tensor("a", &[16], F32, a).tensor("b", &[16], F32, b).data(256).bytes()
        };
        assert!(Gguf::parse(&file(0, 64)).is_ok());
        for (a, b, kind) in [
            (0, 32, misplaced("b", 32, 64, Some("a"))),
            (0, 0, misplaced("b", 0, 64, Some("a"))),
            (0, 96, misplaced("b", 96, 64, Some("a"))),
            (0, 1 << 62, misplaced("b", 1 << 62, 64, Some("a"))),
            (32, 96, misplaced("a", 32, 0, None)),
            (64, 0, misplaced("a", 64, 0, None)),
        ] {
            let bytes = file(a, b);
            let code = if b < 64 && a == 0 { "OVERLAPPING" } else { "MISPLACED" };
            assert_eq!(
                refusal(&bytes).code(),
                format!("GGUF_{code}_TENSOR{}", if code == "OVERLAPPING" { "S" } else { "" })
            );
            assert_eq!(malformed(&bytes), kind);
        }
        let text = refusal(&file(0, 96)).to_string();
        for word in [
            "\"b\" (F32)",
            "offset 96",
            "expected at offset 64",
            "\"a\" (F32) ends",
            "another block size",
            "header is damaged",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn blocks_of_another_size_are_detected_at_the_next_tensor() {
        // A fork's Q1_0 has blocks of 16 bytes, so the next tensor is at the padded end of 3 * 16
        // bytes, not of 3 * 18.
        let file = Raw::default().tensor("a", &[384], 41, 0).tensor("b", &[1], F32, 64).data(96);
        assert!(Gguf::parse(&file.bytes()).is_ok());
        let fork = Raw::default().tensor("a", &[1280], 41, 0).tensor("b", &[1], F32, 160).data(192);
        let kind = MalformedKind::MisplacedTensor {
            name: "b".into(),
            ggml_type: GgmlType::F32,
            offset: 160,
            expected: 192,
            before: Some(Box::new(("a".into(), GgmlType::Q1_0))),
        };
        assert_eq!(malformed(&fork.bytes()), kind);
    }

    #[test]
    fn one_description_more_than_the_count() {
        // With each length of padding, including none, and with the next tensor's data before its own.
        for padding in 0..40 {
            let file = Raw::default()
                .kv("k".repeat(padding + 1), U8, [1])
                .tensor("a", &[16], F32, 0)
                .tensor("b", &[16], F32, 64)
                .data(128);
            assert!(Gguf::parse(&file.bytes()).is_ok());
            for count in [0, 1] {
                let error = refusal(&Raw { tensor_count: Some(count), ..file.clone() }.bytes());
                assert_eq!(error.code(), "GGUF_HEADER_PADDING", "{padding}: {error}");
            }
        }
    }

    #[test]
    fn padding_after_the_header_that_is_not_zero() {
        let file = Raw::default().tensor("t", &[8], F32, 0).data(32);
        let header = file.header().len();
        let start = header.next_multiple_of(32);
        assert!(start > header);
        for at in header..start {
            let mut bytes = file.bytes();
            bytes[at] = 1;
            assert_eq!(malformed(&bytes), MalformedKind::HeaderPadding { tensors: 1 });
            assert!(
                matches!(refusal(&bytes), Error::Malformed { offset, .. } if offset == at as u64)
            );
        }
        let mut without_data = Raw::default().kv("k", U8, [1]).bytes();
        without_data.push(7);
        assert_eq!(malformed(&without_data), MalformedKind::HeaderPadding { tensors: 0 });
    }

    #[test]
    fn padding_of_megabytes_is_checked_up_to_the_end_of_the_file() {
        const ALIGNMENT: u32 = 16 << 20;
        let mut file = Raw::default()
            .kv("general.alignment", U32, ALIGNMENT.to_le_bytes())
            .tensor("t", &[8], F32, 0)
            .data(32);
        file.alignment = ALIGNMENT as usize;
        let mut bytes = file.bytes();
        assert!(Gguf::parse(&bytes).is_ok());
        let limits = Limits::default().with_max_header_bytes(file.header().len() as u64);
        assert!(Gguf::parse_with(&bytes, &limits).is_ok(), "padding is no part of the header");
        bytes[(ALIGNMENT - 1) as usize] = 1;
        assert_eq!(malformed(&bytes), MalformedKind::HeaderPadding { tensors: 1 });
    }
}

mod edges_that_are_valid {
    use super::*;

    #[test]
    fn nothing_but_the_fixed_header() {
        let bytes = Raw::default().bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert!(gguf.metadata().is_empty() && gguf.tensors().is_empty());
        assert_eq!((gguf.alignment(), gguf.data_offset()), (32, 24));
    }

    #[test]
    fn keys_without_tensors_with_and_without_padding() {
        let mut bytes = Raw::default().kv("k", U8, [1]).bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().data_offset(), bytes.len() as u64);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        assert_eq!(Gguf::parse(&bytes).unwrap().data_offset(), bytes.len() as u64);
    }

    #[test]
    fn trailing_bytes() {
        let file = |len| {
            Raw::default().tensor("a", &[8], F32, 0).tensor("b", &[1], F32, 32).data(len).bytes()
        };
        for (len, trailing) in [(36, 0), (37, 0), (64, 0), (65, 1), (2000, 1936)] {
            let bytes = file(len);
            let gguf = Gguf::parse(&bytes).unwrap();
            assert_eq!(gguf.trailing_bytes(), trailing, "{len}");
            assert_eq!(gguf.data_end(), gguf.data_offset() + 36);
        }
    }

    #[test]
    fn tensors_without_elements_take_no_bytes() {
        let bytes = Raw::default()
            .tensor("none", &[0], F32, 0)
            .tensor("some", &[16], F32, 0)
            .tensor("behind", &[8, 0], F32, 64)
            .tensor("at the end", &[0], F32, 64)
            .data(64)
            .bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.tensors().iter().map(gguf_format::TensorInfo::byte_len).sum::<u64>(), 64);
    }

    #[test]
    fn empty_arrays_of_every_type() {
        for element in 0..=12 {
            let bytes = Raw::default().kv("k", ARRAY, array(element, 0, [])).bytes();
            let gguf = Gguf::parse(&bytes).unwrap();
            let array: gguf_format::Array<'_> = gguf.metadata().require("k").unwrap();
            assert!(array.is_empty());
            assert_eq!(array.element_type().id(), element);
        }
    }
}
