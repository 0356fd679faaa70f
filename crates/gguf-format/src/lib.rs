//! GGUF files as typed, bounds-proven data.
//!
//! GGUF is the file format of llama.cpp and its relatives: key-value metadata, a list of tensors,
//! and their data. This crate reads everything but the data, and proves it: after parsing, every
//! tensor's name is unique, its rows are whole blocks, and its byte range is inside the file and
//! follows that of the tensor before it. What uses the catalogue need not check again.
//!
//! It makes no difference who wrote the file. Parsing is total over any bytes: it does not panic,
//! overflow, recurse or allocate by what the file announces, takes linear time, and costs nothing
//! that is not asked for: names, strings and arrays are borrowed, and a vocabulary is skipped in
//! one pass, not decoded.
//!
//! # The whole use
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
//! Names and strings come from the file: print them through [`escape()`], as all messages of this
//! crate do.
//!
//! # Where to start
//!
//! | you have | use |
//! |---|---|
//! | a path | [`GgufFile::open`]: one file or all shards, safe whatever happens to the file |
//! | a path, and nobody changes the file | [`GgufFile::map`], unsafe: data without copying |
//! | a model in a store or in memory | [`GgufFile::open_from`], with a [`ByteSource`] |
//! | the bytes of a file | [`Gguf::parse`] |
//! | the first bytes of a file, say of a download | [`Gguf::parse_header`] |
//! | a file to be made | [`write::GgufWriter`] |
//!
//! # What is read
//!
//! Versions 2 and 3, little-endian; version 1 and big-endian files are refused by name. All value
//! types, arrays of arrays included, and all tensor types of [`GgmlType`]. Where the
//! specification and the tools leave room, [`Gguf`] says what was decided. How much a header may
//! ask for is bounded by [`Limits`]; what exceeds them is an [`Error`] apart from what is broken.
//!
//! # Without copying
//!
//! [`GgufFile::map`] is for tools that read all data of a model, such as one that prints a digest and
//! the range of every tensor: `examples/statistics.rs` is one. [`GgufFile::data`] returns the data of a
//! tensor in the mapping. The caller guarantees that the files do not change.
//!
//! # Unsafe code
//!
//! Denied, except in the one module that maps files. Nothing else of the crate needs it:
//! [`GgufFile::open`] reads headers into memory.
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
mod limits;
mod magic;
#[allow(unsafe_code, reason = "mapping a file is unsafe by nature; its documentation says why")]
mod map;
mod memory;
mod metadata;
mod part_name;
mod prefix;
mod reader;
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
pub use escape::{Escaped, escape, is_unprintable};
pub use file::GgufFile;
pub use ggml_type::{GgmlType, UnknownGgmlType};
pub use gguf::Gguf;
pub use limits::Limits;
pub use metadata::{FromValue, Metadata};
pub use shard::Shard;
pub use tensor::{Shape, TensorInfo};
pub use text::Text;
pub use value::Value;
pub use value_type::ValueType;
pub use warning::Warning;
