//! Generated files: valid ones are read back as written, and mutated ones never cause a panic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

#[path = "../fuzz/promises.rs"]
mod promises;

use gguf_format::write::{GgufWriter, WriteArray, WriteError, WriteValue};
use gguf_format::{Array, Error, GgmlType, Gguf, Limits, Value};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;

fn value() -> impl Strategy<Value = WriteValue> {
    prop_oneof![
        any::<u8>().prop_map(WriteValue::U8),
        any::<i8>().prop_map(WriteValue::I8),
        any::<u16>().prop_map(WriteValue::U16),
        any::<i16>().prop_map(WriteValue::I16),
        any::<u32>().prop_map(WriteValue::U32),
        any::<i32>().prop_map(WriteValue::I32),
        any::<f32>().prop_map(WriteValue::F32),
        any::<bool>().prop_map(WriteValue::Bool),
        ".{0,20}".prop_map(WriteValue::String),
        any::<u64>().prop_map(WriteValue::U64),
        any::<i64>().prop_map(WriteValue::I64),
        any::<f64>().prop_map(WriteValue::F64),
        array().prop_map(WriteValue::Array),
    ]
}

fn array() -> impl Strategy<Value = WriteArray> {
    let flat = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(WriteArray::U8),
        vec(any::<i8>(), 0..9).prop_map(WriteArray::I8),
        vec(any::<u16>(), 0..9).prop_map(WriteArray::U16),
        vec(any::<i16>(), 0..9).prop_map(WriteArray::I16),
        vec(any::<u32>(), 0..9).prop_map(WriteArray::U32),
        vec(any::<i32>(), 0..9).prop_map(WriteArray::I32),
        vec(any::<f32>(), 0..9).prop_map(WriteArray::F32),
        vec(any::<bool>(), 0..9).prop_map(WriteArray::Bool),
        vec(".{0,9}", 0..9).prop_map(WriteArray::String),
        vec(any::<u64>(), 0..9).prop_map(WriteArray::U64),
        vec(any::<i64>(), 0..9).prop_map(WriteArray::I64),
        vec(any::<f64>(), 0..9).prop_map(WriteArray::F64),
    ];
    flat.prop_recursive(4, 24, 4, |inner| vec(inner, 0..4).prop_map(WriteArray::Array))
}

#[derive(Debug, Clone)]
struct Tensor {
    dims: Vec<u64>,
    ggml_type: GgmlType,
}

fn tensor() -> impl Strategy<Value = Tensor> {
    (select(GgmlType::ALL), 0u64..3, vec(0u64..4, 0..4), any::<bool>()).prop_map(
        |(ggml_type, blocks, mut rows, scalar)| {
            if scalar && ggml_type.block_len() == 1 {
                return Tensor { dims: Vec::new(), ggml_type };
            }
            rows.insert(0, blocks * ggml_type.block_len());
            Tensor { dims: rows, ggml_type }
        },
    )
}

#[derive(Debug, Clone)]
struct Model {
    version: u32,
    alignment: Option<u32>,
    kvs: Vec<(String, WriteValue)>,
    tensors: Vec<(String, Tensor)>,
}

fn model() -> impl Strategy<Value = Model> {
    let alignment = proptest::option::of((0u32..13).prop_map(|shift| 1 << shift));
    let kvs = btree_map("[a-z]{1,8}(\\.[a-z_]{1,8}){0,2}|.{1,16}", value(), 0..12);
    let tensors = btree_map(".{1,16}", tensor(), 0..12);
    (2u32..=3, alignment, kvs, tensors).prop_map(|(version, alignment, kvs, tensors)| Model {
        version,
        alignment,
        kvs: kvs.into_iter().collect(),
        tensors: tensors.into_iter().filter(|(name, _)| name.len() <= 64).collect(),
    })
}

impl Model {
    fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        writer.version(self.version);
        if let Some(alignment) = self.alignment {
            writer.alignment(alignment);
        }
        for (key, value) in &self.kvs {
            writer.kv(key.clone(), value.clone());
        }
        for (name, tensor) in &self.tensors {
            writer.tensor(name.clone(), &tensor.dims, tensor.ggml_type);
        }
        writer
    }

    fn bytes(&self) -> Vec<u8> {
        self.writer().to_bytes(|index, data| data.fill(index as u8 + 1)).unwrap()
    }
}

/// Reads an array through the typed iterators and returns what was written.
fn read_array(array: Array<'_>) -> WriteArray {
    macro_rules! read {
        ($( $variant:ident )+) => {
            match array.element_type() {
                $( gguf_format::ValueType::$variant => {
                    WriteArray::$variant(array.iter().unwrap().collect())
                } )+
                gguf_format::ValueType::String => {
                    let strings = array.as_strings().unwrap();
                    WriteArray::String(strings.map(|text| text.unwrap().to_owned()).collect())
                }
                gguf_format::ValueType::Array => {
                    WriteArray::Array(array.as_arrays().unwrap().map(read_array).collect())
                }
                other => panic!("the unknown type {other}"),
            }
        };
    }
    read!(U8 I8 U16 I16 U32 I32 F32 Bool U64 I64 F64)
}

fn read_value(value: Value<'_>) -> WriteValue {
    match value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::F32(v) => v.into(),
        Value::Bool(v) => v.into(),
        Value::String(v) => v.as_str().unwrap().into(),
        Value::Array(v) => read_array(v).into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::F64(v) => v.into(),
        other => panic!("the unknown value {other}"),
    }
}

/// A mutation of a file: bytes are overwritten by special numbers, removed, doubled or truncated.
#[derive(Debug, Clone)]
enum Mutation {
    Byte(prop::sample::Index, u8),
    Number(prop::sample::Index, u64, bool),
    CutOut(prop::sample::Index, usize),
    Double(prop::sample::Index, usize),
    CutOff(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    let number = prop_oneof![
        (0u32..64, -2i64..3).prop_map(|(shift, off)| (1u64 << shift).wrapping_add_signed(off)),
        0u64..64,
        any::<u64>(),
    ];
    prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        4 => (index(), number, any::<bool>())
            .prop_map(|(at, number, wide)| Mutation::Number(at, number, wide)),
        1 => (index(), 1usize..40).prop_map(|(at, len)| Mutation::CutOut(at, len)),
        1 => (index(), 1usize..40).prop_map(|(at, len)| Mutation::Double(at, len)),
        1 => index().prop_map(Mutation::CutOff),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let end = |at: usize, len: usize| (at + len).min(bytes.len());
    match mutation {
        Mutation::Byte(at, byte) => *at.get_mut(bytes) = *byte,
        Mutation::Number(at, number, wide) => {
            let at = at.index(bytes.len());
            let end = end(at, if *wide { 8 } else { 4 });
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        Mutation::CutOut(at, len) => {
            let at = at.index(bytes.len());
            drop(bytes.drain(at..end(at, *len)));
        }
        Mutation::Double(at, len) => {
            let at = at.index(bytes.len());
            let piece = bytes[at..end(at, *len)].to_vec();
            bytes.splice(at..at, piece);
        }
        Mutation::CutOff(at) => bytes.truncate(at.index(bytes.len())),
    }
}

/// Failures are stored beside this file and are run first from then on.
fn config() -> ProptestConfig {
    let file = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_written_file_is_read_back_unchanged(model in model()) {
        let layout = model.writer().layout().unwrap();
        let bytes = model.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        promises::check(&bytes);

        prop_assert_eq!(gguf.version(), model.version);
        prop_assert_eq!(gguf.alignment(), u64::from(model.alignment.unwrap_or(32)));
        prop_assert_eq!(gguf.data_offset(), layout.data_offset());
        prop_assert_eq!(layout.file_len(), bytes.len() as u64);

        let kvs = gguf.metadata().iter().filter(|(key, _)| *key != "general.alignment");
        let kvs: Vec<_> = kvs.map(|(key, value)| (key.as_str().unwrap().to_owned(), read_value(value))).collect();
        // Compared as text, because NaN is not equal to itself.
        prop_assert_eq!(format!("{kvs:?}"), format!("{:?}", model.kvs));

        prop_assert_eq!(gguf.tensors().len(), model.tensors.len());
        for (index, (read, (name, tensor))) in gguf.tensors().iter().zip(&model.tensors).enumerate() {
            prop_assert_eq!(read.name(), name);
            prop_assert_eq!(read.shape().dims(), &tensor.dims);
            prop_assert_eq!(read.ggml_type(), tensor.ggml_type);
            prop_assert_eq!(read.range(), layout.ranges()[index].clone());
            prop_assert!(gguf.data(read).unwrap().iter().all(|&b| b == index as u8 + 1));
        }
    }

    #[test]
    fn any_key_is_refused_by_the_writer_or_accepted_by_the_parser(
        model in model(),
        key in select(&["general.alignment", "general.architecture", "split.count"][..]),
        value in value(),
    ) {
        let mut writer = model.writer();
        match writer.kv(key, value).to_bytes(|_, _| {}) {
            Ok(bytes) => prop_assert!(Gguf::parse(&bytes).is_ok()),
            Err(error) => {
                prop_assert_eq!((error, key), (WriteError::AlignmentKey, "general.alignment"));
            }
        }
    }

    #[test]
    fn a_prefix_gives_the_same_header_or_requests_more_bytes(model in model(), cut in any::<prop::sample::Index>()) {
        let bytes = model.bytes();
        let prefix = &bytes[..cut.index(bytes.len())];
        match Gguf::parse_header(prefix, bytes.len() as u64, &Limits::default()) {
            Ok(gguf) => {
                let whole = Gguf::parse(&bytes).unwrap();
                prop_assert_eq!(gguf.tensors(), whole.tensors());
                prop_assert_eq!(gguf.metadata().len(), whole.metadata().len());
            }
            Err(Error::Incomplete { needed }) => {
                prop_assert!(needed > prefix.len() as u64 && needed <= bytes.len() as u64);
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn mutated_files_keep_the_promises_or_are_refused(
        model in model(),
        mutations in vec(mutation(), 1..6),
    ) {
        let mut bytes = model.bytes();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        promises::check(&bytes);
    }

    #[test]
    fn arbitrary_bytes_after_the_magic_keep_the_promises_or_are_refused(
        tail in vec(any::<u8>(), 0..400),
        counts in (0u64..4, 0u64..4),
    ) {
        let (tensors, kvs) = counts;
        let bytes = [
            &b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &kvs.to_le_bytes(), &tail,
        ].concat();
        promises::check(&bytes);
    }

    #[test]
    fn tensors_are_found_by_name_in_any_order(names in btree_set("[a-z]{1,6}", 1..40)) {
        let mut file = raw::Raw::default().data(names.len() * 32);
        for (at, name) in names.iter().rev().enumerate() {
            file.infos.push(raw::info(name, &[8], raw::F32, at as u64 * 32));
        }
        let bytes = file.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        for name in &names {
            prop_assert_eq!(gguf.tensor(name).unwrap().name(), name);
        }
    }
}
