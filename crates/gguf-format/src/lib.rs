//! Parses GGUF files into typed data with checked bounds.
//!
//! GGUF is the file format of llama.cpp and related programs: key-value metadata, a list of tensors,
//! and their data. This crate reads everything except the data, and checks it: after parsing, every
//! tensor's name is unique, its rows are whole blocks, and its byte range is inside the file and
//! follows that of the tensor before it. Users of the catalogue need not check these again.
//!
//! Files need not be trusted. For any bytes, parsing does not panic, overflow or recurse, does not allocate
//! by counts in the file, and takes linear time. Names, strings and arrays are borrowed, and a vocabulary is
//! skipped in one pass without decoding.
//!
//! # An example
//!
//! ```
//! use gguf_format::{ErrorClass, GgmlType, GgufFile, Strings};
//!
//! # use gguf_format::write::GgufWriter;
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("model.gguf");
//! # let bytes = GgufWriter::new()
//! #     .kv("general.architecture", "phi3")
//! #     .kv("phi3.block_count", 32u32)
//! #     .kv("tokenizer.ggml.tokens", vec!["<s>".to_owned(), "</s>".to_owned()])
//! #     .tensor("token_embd.weight", &[256, 2], GgmlType::Q4_K)
//! #     .to_bytes(|_, _| ()).unwrap();
//! # std::fs::write(&path, bytes).unwrap();
//! // Any shard of a split model will do.
//! let model = match GgufFile::open(&path) {
//!     Ok(model) => model,
//!     Err(error) => {
//!         eprintln!("error[{}]: {error}", error.code());
//!         if let Some(help) = error.help() {
//!             eprintln!("help: {help}");
//!         }
//!         std::process::exit(if error.class() == ErrorClass::Malformed { 3 } else { 1 });
//!     }
//! };
//!
//! // Typed metadata. Errors name the key, what was expected and what was found.
//! let metadata = model.metadata();
//! let architecture: &str = metadata.require("general.architecture")?;
//! let layers: u32 = metadata.require(&format!("{architecture}.block_count"))?;
//! let window: Option<u32> = metadata.optional("phi3.attention.sliding_window")?;
//! assert_eq!((architecture, layers, window), ("phi3", 32, None));
//!
//! // Arrays are decoded as they are read.
//! let tokens: Strings<'_> = metadata.require("tokenizer.ggml.tokens")?;
//! assert_eq!(tokens.len(), 2);
//! for token in tokens {
//!     assert!(token?.ends_with("s>"));
//! }
//!
//! // The catalogue, in file order or by name.
//! let tensor = model.tensor("token_embd.weight").expect("the model has an embedding");
//! assert_eq!(tensor.shape().dims(), [256, 2]);
//! assert_eq!(tensor.ggml_type(), GgmlType::Q4_K);
//! assert_eq!(tensor.byte_len(), 2 * 144);
//! let file = model.shards()[tensor.shard()].file();
//! // ... read `tensor.range()` of `file`.
//! # let _ = file;
//! # Ok::<(), gguf_format::Error>(())
//! ```
//!
//! Names and strings come from the file. Print them with [`escape()`], as all messages of this crate do.
//!
//! # Where to start
//!
//! | you have | use |
//! |---|---|
//! | a path | [`GgufFile::open`]: one file or all shards; other processes may change the file |
//! | an open file | [`GgufFile::open_file`] |
//! | a path of files that do not change | [`GgufFile::map`], unsafe: data without copying |
//! | a model in a store or in memory | [`GgufFile::open_from`], with a [`ByteSource`] |
//! | the bytes of a file | [`Gguf::parse`] |
//! | the first bytes of a file, for example of a download | [`Gguf::parse_header`] |
//! | a file to write | [`write::GgufWriter`] |
//!
//! # What is read
//!
//! Versions 2 and 3, little-endian. Version 1 and big-endian files give specific errors. All value types,
//! including arrays of arrays, and all tensor types of [`GgmlType`] are read. [`Gguf`] lists decisions where
//! specification and tools differ. [`Limits`] bound the size of a header; a file that exceeds them gives an
//! [`Error`] of the class [`Limit`](ErrorClass::Limit).
//!
//! # Without copying
//!
//! [`GgufFile::map`] is for tools that read all data of a model, such as one that prints a digest and
//! the range of every tensor: `examples/statistics.rs` is one. [`GgufFile::data`] returns the data of a
//! tensor in the mapping. The caller guarantees that the files do not change.
//!
//! # Unsafe code
//!
//! Unsafe code is denied except in the module that maps files. [`GgufFile::open`] needs none: it reads
//! headers into memory.
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod alignment;
mod array;
mod byte_source;
mod codes;
mod error;
mod escape;
mod file;
mod ggml_type;
mod gguf;
mod header;
mod io_error;
mod limits;
mod magic;
#[allow(
    unsafe_code,
    reason = "mapping a file is always unsafe; its documentation gives the reason"
)]
mod map;
mod memory;
mod metadata;
mod part_name;
mod prefix;
mod reader;
mod shape;
mod shard;
mod siblings;
mod skip;
mod split;
mod tensor;
mod text;
mod value;
mod value_type;
mod warning;
pub mod write;

pub use array::{Array, Arrays, ByteStrings, Element, Elements, Strings};
pub use byte_source::{ByteSource, OpenFile};
pub use codes::{CodeFacts, ErrorClass};
pub use error::{Error, Item, MalformedKind, OtherFormat, ShardKind, UnsupportedKind};
pub use escape::{Escaped, escape, is_unprintable, path_text};
pub use file::GgufFile;
pub use ggml_type::{GgmlType, UnknownGgmlType};
pub use gguf::Gguf;
pub use header::GgufHeader;
pub use io_error::IoError;
pub use limits::Limits;
pub use metadata::{FromValue, Metadata};
pub use shape::Shape;
pub use shard::Shard;
pub use tensor::TensorInfo;
pub use text::Text;
pub use value::Value;
pub use value_type::ValueType;
pub use warning::Warning;
