//! GGUF files as typed, bounds-proven data.
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

mod error;
mod escape;
mod file;
mod ggml_type;
mod gguf;
mod limits;
mod magic;
#[allow(unsafe_code, reason = "mapping a file is unsafe by nature; its documentation says why")]
mod map;
mod metadata;
mod reader;
mod shards;
mod skip;
mod tensor;
mod value;
pub mod write;

pub use error::{Error, ErrorClass, Item, MalformedKind, ShardKind, UnsupportedKind};
pub use escape::{Escaped, escape};
pub use file::{GgufFile, Shard};
pub use ggml_type::{GgmlType, UnknownGgmlType};
pub use gguf::Gguf;
pub use limits::Limits;
pub use metadata::{FromValue, Metadata};
pub use tensor::{Shape, TensorInfo};
pub use value::{Array, Arrays, ByteStrings, Element, Elements, Strings, Value, ValueType};
