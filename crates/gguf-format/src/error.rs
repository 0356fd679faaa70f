//! Errors of the parser.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::codes::{self, CodeFacts, ErrorClass};
use crate::escape::{path_text, quoted};
use crate::ggml_type::GgmlType;
use crate::io_error::IoError;
use crate::part_name::is_part_name;

/// The reason why a file was refused, or why a metadata query failed.
///
/// Each kind of error has a [`class`](Self::class), a stable [`code`](Self::code) for programs, a message
/// with offset, name, and the expected and found values, and usually advice: [`help`](Self::help).
/// Messages print names from the file [escaped](crate::escape()).
///
/// Offsets are in bytes from the start of the file. If a model is split, they are from the start of the
/// shard.
///
/// A message is complete: it contains the message of its cause. Print it alone, without the messages
/// of the chain. [`source`](std::error::Error::source) returns the cause for programs, which find the
/// [`io::Error`] with its kind and its number at the end of the chain.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system could not read the file.
    #[error("cannot read {}: {source}", path_text(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: IoError,
    },

    /// The file ends inside an item that its header announces.
    #[error(
        "truncated: {item} at byte {offset} needs {needed} bytes, but only {available} are left in the file{}",
        missing_text(.item)
    )]
    Truncated {
        /// The item that was being read.
        item: Item,
        /// Its position in bytes.
        offset: u64,
        /// Bytes that it takes, at least.
        needed: u64,
        /// Bytes from `offset` to the end of the file.
        available: u64,
    },

    /// The prefix that [`Gguf::parse_header`](crate::Gguf::parse_header) received ends before the
    /// header, and the file is longer than the prefix. The file is not at fault.
    #[error(
        "the header is incomplete: the parser needs at least the first {needed} bytes of the file"
    )]
    Incomplete {
        /// Bytes from the start of the file that the parser needs, at least, to continue.
        needed: u64,
    },

    /// The bytes break a rule of the format.
    #[error("malformed at byte {offset}: {kind}")]
    Malformed {
        /// Position in bytes.
        offset: u64,
        /// The rule that is broken.
        kind: MalformedKind,
    },

    /// The file may be valid, but this reader does not support it.
    #[error("unsupported at byte {offset}: {kind}")]
    Unsupported {
        /// Position of the unsupported field in bytes.
        offset: u64,
        /// The unsupported feature.
        kind: UnsupportedKind,
    },

    /// The file exceeds one of the [`Limits`](crate::Limits).
    #[error("limit exceeded at byte {offset}: {what} is {value}, but the limit is {limit}")]
    Limit {
        /// Position of the field that exceeds the limit, in bytes.
        offset: u64,
        /// The limited quantity.
        what: &'static str,
        /// The value in the file, at least.
        value: u64,
        /// The limit.
        limit: u64,
    },

    /// A required key is not in the metadata.
    #[error("the key {} is missing", quoted(.key))]
    Missing {
        /// The key.
        key: String,
    },

    /// The value of a key has another type than the caller requested.
    #[error("the key {} must be {expected}, but is {found}", quoted(.key))]
    WrongType {
        /// The key.
        key: String,
        /// The requested type.
        expected: &'static str,
        /// The type in the file.
        found: &'static str,
    },

    /// The value of a key is an integer that does not fit the requested type.
    #[error("the key {} is {value}, which is out of range for {expected}", quoted(.key))]
    OutOfRange {
        /// The key.
        key: String,
        /// The requested type.
        expected: &'static str,
        /// The value in the file.
        value: i128,
    },

    /// The files of a split model do not form one model.
    #[error("{}: {kind}", path_text(.path))]
    Shard {
        /// The file that is missing or does not match.
        path: PathBuf,
        /// The reason.
        kind: ShardKind,
    },

    /// There is not enough memory for the lists of the header.
    #[error(
        "too little memory for {what} of the header: {bytes} bytes required{}",
        .left.map_or_else(String::new, |left| format!(", {left} bytes left"))
    )]
    OutOfMemory {
        /// The purpose of the memory.
        what: &'static str,
        /// Bytes that are required, at least.
        bytes: u64,
        /// Bytes that are left of [`Limits::max_memory`](crate::Limits::max_memory); `None` if the
        /// system refused the memory.
        left: Option<u64>,
    },

    /// Any other error, with the file that it occurred in.
    #[error("{}: {error}", path_text(.path))]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        error: Box<Error>,
    },
}

/// The item that the parser was reading when the file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The four bytes `GGUF`.
    Magic,
    /// The version and the two counts after the magic.
    FixedHeader,
    /// All key-value pairs together.
    KeyValues {
        /// The number that the file announces.
        count: u64,
    },
    /// All tensor descriptions together.
    TensorInfos {
        /// The number that the file announces.
        count: u64,
    },
    /// A key.
    Key {
        /// The pair's position, from 0.
        index: u64,
    },
    /// The value of a key.
    Value {
        /// The key, which need not be UTF-8.
        key: Vec<u8>,
    },
    /// The name of a tensor.
    TensorName {
        /// The tensor's position, from 0.
        index: u64,
    },
    /// Dimensions, type and offset of a tensor.
    TensorInfo {
        /// The tensor.
        name: String,
    },
    /// The data of a tensor.
    TensorData {
        /// The tensor.
        name: String,
        /// The end of the last tensor of the file in bytes: the length that the file must have.
        file_end: u64,
        /// The length of the file in bytes.
        file_len: u64,
    },
    /// An element of a string array.
    ArrayElement {
        /// The element's position, from 0.
        index: u64,
    },
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("the magic"),
            Self::FixedHeader => f.write_str("the fixed header"),
            Self::KeyValues { count } => write!(f, "the list of {count} key-value pairs"),
            Self::TensorInfos { count } => write!(f, "the list of {count} tensors"),
            Self::Key { index } => write!(f, "key number {index}"),
            Self::Value { key } => write!(f, "the value of key {}", quoted(key)),
            Self::TensorName { index } => write!(f, "the name of tensor number {index}"),
            Self::TensorInfo { name } => write!(f, "the description of tensor {}", quoted(name)),
            Self::TensorData { name, .. } => write!(f, "the data of tensor {}", quoted(name)),
            Self::ArrayElement { index } => write!(f, "array element number {index}"),
        }
    }
}

/// The rule of the format that the file breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedKind {
    /// The file does not start with `GGUF`.
    #[error("not a GGUF file: it starts with {}{}", quoted(.found), looks_like_text(*.looks_like))]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
        /// The format that the file seems to have instead.
        looks_like: Option<&'static OtherFormat>,
    },
    /// A key of no bytes.
    #[error("key number {index} is empty")]
    EmptyKey {
        /// The pair's position, from 0.
        index: u64,
    },
    /// A tensor name of no bytes.
    #[error("the name of tensor number {index} is empty")]
    EmptyTensorName {
        /// The tensor's position, from 0.
        index: u64,
    },
    /// A tensor's name, or a string that was requested as text, is not UTF-8.
    #[error("{item} is not valid UTF-8")]
    InvalidUtf8 {
        /// The name or string.
        item: Item,
    },
    /// GGUF has no such type of values or array elements.
    #[error("key {} has the unknown value type {id}", quoted(.key))]
    UnknownValueType {
        /// The key, which need not be UTF-8.
        key: Vec<u8>,
        /// The number in the file.
        id: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("key {} has a boolean of {value}, which is neither 0 nor 1", quoted(.key))]
    InvalidBool {
        /// The key, which need not be UTF-8.
        key: Vec<u8>,
        /// The byte in the file.
        value: u8,
    },
    /// A key that occurs twice.
    #[error("the key {} occurs twice", quoted(.key))]
    DuplicateKey {
        /// The key, which need not be UTF-8.
        key: Vec<u8>,
    },
    /// A tensor name that occurs twice.
    #[error("the tensor {} occurs twice", quoted(.name))]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment is {value}, which is not a power of two")]
    BadAlignment {
        /// The value in the file.
        value: u32,
    },
    /// More than four dimensions.
    #[error("tensor {} has {n_dims} dimensions, but the maximum is 4", quoted(.name))]
    TooManyDimensions {
        /// The tensor.
        name: String,
        /// The number in the file.
        n_dims: u32,
    },
    /// The number of elements exceeds 2^63 - 1.
    #[error("tensor {} with dimensions {dims:?} has more than 2^63 - 1 elements", quoted(.name))]
    TooManyElements {
        /// The tensor.
        name: String,
        /// Its dimensions, contiguous first.
        dims: Vec<u64>,
    },
    /// A row is not a whole number of blocks.
    #[error(
        "tensor {} has rows of {row_len} elements, but {ggml_type} has blocks of {} elements",
        quoted(.name), .ggml_type.block_len()
    )]
    PartialBlock {
        /// The tensor.
        name: String,
        /// Its type.
        ggml_type: GgmlType,
        /// Elements in a row.
        row_len: u64,
    },
    /// The size in bytes, or the end of the data, exceeds 2^64 - 1.
    #[error("tensor {} at offset {offset} in the data: its size or its end exceeds 2^64 - 1 bytes", quoted(.name))]
    TensorOverflow {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
    },
    /// An offset is not a multiple of the alignment.
    #[error(
        "tensor {} starts at offset {offset} in the data, which is not a multiple of the alignment {alignment}",
        quoted(.name)
    )]
    MisalignedTensor {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor does not start at the padded end of the tensor before it.
    #[error(
        "tensor {} ({ggml_type}) is at offset {offset} in the data, expected at offset {expected}, {}",
        quoted(.name), place_text(.before)
    )]
    MisplacedTensor {
        /// The tensor.
        name: String,
        /// Its type.
        ggml_type: GgmlType,
        /// Its offset in the data section.
        offset: u64,
        /// The padded end of the tensors before it, in the data section.
        expected: u64,
        /// Name and type of the tensor before it, whose size determines this place.
        before: Option<Box<(String, GgmlType)>>,
    },
    /// The padding between the tensor descriptions and the data is not zero.
    #[error(
        "the padding between the header and the data is not zero: probably the number of tensors, \
         {tensors}, is too small, or the header is damaged"
    )]
    HeaderPadding {
        /// The number of tensors that the file announces.
        tensors: u64,
    },
    /// The description of a further tensor follows the announced ones.
    #[error(
        "tensor {} follows the last of the {tensors} tensors that the file announces: probably \
         that number is too small",
        quoted(.name)
    )]
    UncountedTensor {
        /// The tensor.
        name: String,
        /// The number of tensors that the file announces.
        tensors: u64,
    },
}

/// The format of a file that is not GGUF.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherFormat {
    /// The format in words, with an article.
    pub what: &'static str,
    /// The advice to the user.
    pub cure: &'static str,
}

/// A feature that this reader does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsupportedKind {
    /// A version other than 2 and 3.
    #[error("GGUF version {version}; versions 2 and 3 are supported")]
    Version {
        /// The number in the file.
        version: u32,
    },
    /// The file is for big-endian machines.
    #[error("big-endian GGUF (version {version}); little-endian files are supported")]
    BigEndian {
        /// The version, if it is read as big-endian.
        version: u32,
    },
    /// This version does not support the tensor type: it belongs to a later ggml or to a fork, or it is
    /// not a type.
    #[error("tensor {} has the ggml type {id}, which this version does not support", quoted(.name))]
    UnknownTensorType {
        /// The tensor.
        name: String,
        /// The number in the file.
        id: u32,
    },
    /// A tensor type that ggml has removed from files.
    #[error("tensor {} has the ggml type {id} ({removed}), which ggml has removed", quoted(.name))]
    RemovedTensorType {
        /// The tensor.
        name: String,
        /// The number in the file.
        id: u32,
        /// The name that the type had.
        removed: &'static str,
    },
}

/// The reason why the files of a split model do not form one model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardKind {
    /// The file does not exist.
    #[error("this shard of the split model is missing ({no} of {count})")]
    Missing {
        /// The shard's number in file names, from 1.
        no: u64,
        /// Number of shards.
        count: u64,
    },
    /// The metadata announce several shards, but the file name does not end in `-00001-of-0000N.gguf`.
    #[error(
        "its metadata says that the file is one of {count} shards, but its name does not end in -{no:05}-of-{count:05}.gguf"
    )]
    BadName {
        /// The number that the name should have, from 1.
        no: u64,
        /// Number of shards in the metadata.
        count: u64,
    },
    /// The file holds one shard, and further files follow in it.
    #[error(
        "the file contains shard {no} of {count}, and another GGUF file starts at byte {at}: the shards were joined"
    )]
    Joined {
        /// The number of the shard in file names, from 1.
        no: u64,
        /// Number of shards in the metadata.
        count: u64,
        /// Where the next file starts in this one, in bytes.
        at: u64,
    },
    /// `split.no` is not less than the number of shards.
    #[error("split.no is {no}, but the {count} shards are numbered from 0")]
    NoBeyondCount {
        /// The value of `split.no`.
        no: u64,
        /// Number of shards in the metadata.
        count: u64,
    },
    /// The file name is that of one shard of several, but the metadata describe a complete model.
    #[error(
        "the file name says shard {no} of {count}, but the metadata describes a complete model"
    )]
    Whole {
        /// The number in the file name.
        no: u64,
        /// The number of shards in the file name.
        count: u64,
    },
    /// The value of a key does not match the file's place in the model.
    #[error("{key} is {found}, but must be {expected} in this shard")]
    Mismatch {
        /// The key.
        key: &'static str,
        /// The value that the key should have.
        expected: u64,
        /// The value in the file.
        found: u64,
    },
    /// The shard belongs to another model: it has another architecture, or is not split.
    #[error("this file does not belong to the split model: {why}")]
    Foreign {
        /// The difference.
        why: &'static str,
    },
    /// The shards do not hold as many tensors as they announce.
    #[error("the shards contain {found} tensors, but split.tensors.count is {expected}")]
    TensorCount {
        /// The value of `split.tensors.count`.
        expected: u64,
        /// Tensors in all shards.
        found: u64,
    },
    /// Another shard has a tensor of the same name.
    #[error("the tensor {} is also in an earlier shard", quoted(.name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
}

impl Error {
    /// Every code that [`code`](Self::code) can return. Codes are only added, never removed.
    pub const ALL_CODES: &'static [CodeFacts] = codes::ALL;

    /// Returns code, class, cause and cure of this kind of error.
    #[must_use]
    pub fn facts(&self) -> CodeFacts {
        match self {
            Self::Io { source, .. } => match source.kind() {
                // `NotADirectory`: a part of the path that should be a folder is a file.
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => codes::FILE_NOT_FOUND,
                io::ErrorKind::PermissionDenied => codes::FILE_PERMISSION,
                _ => codes::IO,
            },
            Self::Truncated { .. } => codes::TRUNCATED,
            Self::Incomplete { .. } => codes::HEADER_INCOMPLETE,
            Self::Malformed { kind, .. } => match kind {
                MalformedKind::BadMagic { .. } => codes::BAD_MAGIC,
                MalformedKind::EmptyKey { .. } | MalformedKind::EmptyTensorName { .. } => {
                    codes::EMPTY_NAME
                }
                MalformedKind::InvalidUtf8 { .. } => codes::INVALID_UTF8,
                MalformedKind::UnknownValueType { .. } => codes::UNKNOWN_VALUE_TYPE,
                MalformedKind::InvalidBool { .. } => codes::INVALID_BOOL,
                MalformedKind::DuplicateKey { .. } => codes::DUPLICATE_KEY,
                MalformedKind::DuplicateTensor { .. } => codes::DUPLICATE_TENSOR,
                MalformedKind::BadAlignment { .. } => codes::BAD_ALIGNMENT,
                MalformedKind::TooManyDimensions { .. } => codes::TOO_MANY_DIMENSIONS,
                MalformedKind::TooManyElements { .. } | MalformedKind::TensorOverflow { .. } => {
                    codes::TENSOR_OVERFLOW
                }
                MalformedKind::PartialBlock { .. } => codes::PARTIAL_BLOCK,
                MalformedKind::MisalignedTensor { .. } => codes::MISALIGNED_TENSOR,
                MalformedKind::MisplacedTensor { offset, expected, .. } if offset < expected => {
                    codes::OVERLAPPING_TENSORS
                }
                MalformedKind::MisplacedTensor { .. } => codes::MISPLACED_TENSOR,
                MalformedKind::HeaderPadding { .. } | MalformedKind::UncountedTensor { .. } => {
                    codes::HEADER_PADDING
                }
            },
            Self::Unsupported { kind, .. } => match kind {
                UnsupportedKind::Version { .. } => codes::UNSUPPORTED_VERSION,
                UnsupportedKind::BigEndian { .. } => codes::BIG_ENDIAN,
                UnsupportedKind::UnknownTensorType { .. } => codes::UNKNOWN_TENSOR_TYPE,
                UnsupportedKind::RemovedTensorType { .. } => codes::REMOVED_TENSOR_TYPE,
            },
            Self::Limit { .. } => codes::LIMIT_EXCEEDED,
            Self::Missing { .. } => codes::MISSING_KEY,
            Self::WrongType { .. } => codes::WRONG_TYPE,
            Self::OutOfRange { .. } => codes::VALUE_OUT_OF_RANGE,
            Self::Shard { kind, .. } => match kind {
                ShardKind::Missing { .. } => codes::SHARD_MISSING,
                ShardKind::BadName { .. } => codes::SHARD_NAME,
                ShardKind::Joined { .. } => codes::SHARDS_JOINED,
                ShardKind::NoBeyondCount { .. }
                | ShardKind::Whole { .. }
                | ShardKind::Mismatch { .. }
                | ShardKind::Foreign { .. }
                | ShardKind::TensorCount { .. } => codes::SHARD_MISMATCH,
                ShardKind::DuplicateTensor { .. } => codes::DUPLICATE_TENSOR,
            },
            Self::OutOfMemory { .. } => codes::OUT_OF_MEMORY,
            Self::InFile { error, .. } => error.facts(),
        }
    }

    /// Returns a stable name for the kind of error, one of [`ALL_CODES`](Self::ALL_CODES).
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// Returns the class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.facts().class
    }

    /// Returns the advice to the user; `None` if only the calling program can act.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        let is_part = self.path().is_some_and(is_part_name);
        match self.without_path() {
            Self::Incomplete { .. } => None,
            Self::Truncated { .. }
            | Self::Malformed { kind: MalformedKind::BadMagic { .. }, .. }
                if is_part =>
            {
                Some(JOIN_PARTS)
            }
            Self::Malformed {
                kind: MalformedKind::BadMagic { looks_like: Some(format), .. },
                ..
            } => Some(format.cure),
            Self::Shard { kind: ShardKind::Whole { .. }, .. } => Some(
                "if the file is a complete model, give it a name that does not end in \
                 -00001-of-0000N.gguf; if it is a shard, it is damaged: fetch it again",
            ),
            _ => Some(self.facts().cure),
        }
    }

    /// Returns the file that the error is about, if it is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::Shard { path, .. } | Self::InFile { path, .. } => {
                Some(path)
            }
            _ => None,
        }
    }

    /// Returns the error without [`InFile`](Self::InFile) around it, for matching.
    #[must_use]
    pub fn without_path(&self) -> &Self {
        match self {
            Self::InFile { error, .. } => error.without_path(),
            other => other,
        }
    }

    /// Returns the error for a file that the operating system could not open or read.
    #[must_use]
    pub fn of_io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }

    /// Adds the name of the file, unless the error has one.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        if self.path().is_some() {
            self
        } else {
            Self::InFile { path: path.to_owned(), error: Box::new(self) }
        }
    }
}

fn looks_like_text(looks_like: Option<&OtherFormat>) -> String {
    looks_like.map_or_else(String::new, |format| format!(", like {}", format.what))
}

/// Formats how many bytes are missing in the file, if that is known.
fn missing_text(item: &Item) -> String {
    let Item::TensorData { file_end, file_len, .. } = item else { return String::new() };
    let missing = file_end.saturating_sub(*file_len);
    format!(
        "; {missing} bytes are missing: the file has {file_len}, but its header requires {file_end}"
    )
}

fn place_text(before: &Option<Box<(String, GgmlType)>>) -> String {
    before.as_deref().map_or_else(
        || "where the data starts".to_owned(),
        |(name, ggml_type)| {
            format!(
                "where tensor {} ({ggml_type}) ends: probably one of the two types has another \
                 block size in this file, or the header is damaged",
                quoted(name)
            )
        },
    )
}

const JOIN_PARTS: &str = "the file name says that this is one part of a file that was cut into parts: \
                          join all parts in order, for example with `cat`, and give the result";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns one error of every kind.
    fn all() -> Vec<Error> {
        let (name, key) = (|| String::from("n\n"), || String::from("k\u{1b}"));
        let malformed = |kind| Error::Malformed { offset: 1, kind };
        let unsupported = |kind| Error::Unsupported { offset: 1, kind };
        let shard = |kind| Error::Shard { path: "a\n.gguf".into(), kind };
        let item = || Item::Key { index: 3 };
        let ggml_type = GgmlType::Q4_K;
        let misplaced = |offset, expected| MalformedKind::MisplacedTensor {
            name: name(),
            ggml_type,
            offset,
            expected,
            before: Some(Box::new((name(), ggml_type))),
        };
        vec![
            Error::Io { path: "a.gguf".into(), source: io::ErrorKind::NotFound.into() },
            Error::Io { path: "a.gguf".into(), source: io::ErrorKind::PermissionDenied.into() },
            Error::Io { path: "a.gguf".into(), source: io::ErrorKind::UnexpectedEof.into() },
            Error::Truncated { item: item(), offset: 1, needed: 2, available: 1 },
            Error::Incomplete { needed: 3 },
            malformed(MalformedKind::BadMagic {
                found: *b"\x1b[2J",
                looks_like: Some(&OtherFormat { what: "x", cure: "y" }),
            }),
            malformed(MalformedKind::EmptyKey { index: 0 }),
            malformed(MalformedKind::EmptyTensorName { index: 0 }),
            malformed(MalformedKind::InvalidUtf8 { item: item() }),
            malformed(MalformedKind::UnknownValueType { key: key().into(), id: 13 }),
            malformed(MalformedKind::InvalidBool { key: key().into(), value: 2 }),
            malformed(MalformedKind::DuplicateKey { key: key().into() }),
            malformed(MalformedKind::DuplicateTensor { name: name() }),
            malformed(MalformedKind::BadAlignment { value: 3 }),
            malformed(MalformedKind::TooManyDimensions { name: name(), n_dims: 5 }),
            malformed(MalformedKind::TooManyElements { name: name(), dims: vec![1 << 63] }),
            malformed(MalformedKind::PartialBlock { name: name(), ggml_type, row_len: 1 }),
            malformed(MalformedKind::TensorOverflow { name: name(), offset: 0 }),
            malformed(MalformedKind::MisalignedTensor { name: name(), offset: 1, alignment: 32 }),
            malformed(misplaced(0, 32)),
            malformed(misplaced(64, 32)),
            malformed(MalformedKind::HeaderPadding { tensors: 1 }),
            malformed(MalformedKind::UncountedTensor { name: name(), tensors: 1 }),
            unsupported(UnsupportedKind::Version { version: 1 }),
            unsupported(UnsupportedKind::BigEndian { version: 3 }),
            unsupported(UnsupportedKind::UnknownTensorType { name: name(), id: 99 }),
            unsupported(UnsupportedKind::RemovedTensorType {
                name: name(),
                id: 4,
                removed: "Q4_2",
            }),
            Error::Limit { offset: 1, what: "x", value: 2, limit: 1 },
            Error::Missing { key: key() },
            Error::WrongType { key: key(), expected: "u32", found: "string" },
            Error::OutOfRange { key: key(), expected: "u32", value: -1 },
            shard(ShardKind::Missing { no: 1, count: 2 }),
            shard(ShardKind::BadName { no: 1, count: 2 }),
            shard(ShardKind::Joined { no: 1, count: 2, at: 64 }),
            Error::OutOfMemory { what: "x", bytes: 1, left: Some(0) },
            shard(ShardKind::Mismatch { key: "split.no", expected: 0, found: 1 }),
            shard(ShardKind::NoBeyondCount { no: 2, count: 2 }),
            shard(ShardKind::Whole { no: 1, count: 2 }),
            shard(ShardKind::Foreign { why: "x" }),
            shard(ShardKind::TensorCount { expected: 1, found: 2 }),
            shard(ShardKind::DuplicateTensor { name: name() }),
        ]
    }

    #[test]
    fn the_list_of_codes_agrees_with_the_errors() {
        let listed: BTreeSet<_> = Error::ALL_CODES.iter().map(|facts| facts.code).collect();
        assert_eq!(listed.len(), Error::ALL_CODES.len());
        assert_eq!(all().iter().map(Error::code).collect::<BTreeSet<_>>(), listed);
        let prefixes = ["GGUF_", "FILE_"];
        assert!(listed.iter().all(|code| prefixes.iter().any(|prefix| code.starts_with(prefix))));
    }

    #[test]
    fn the_help_for_a_part_of_a_file_says_to_join_the_parts() {
        let truncated =
            || Error::Truncated { item: Item::Magic, offset: 0, needed: 4, available: 0 };
        let help = |name| truncated().in_file(Path::new(name)).help().unwrap();
        assert!(help("x.gguf.part1of2").contains("join all parts"));
        assert!(help("x.gguf").contains("incomplete"));
    }

    #[test]
    fn messages_are_one_line_without_control_characters() {
        for error in all() {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.chars().any(char::is_control), "{message:?}");
        }
    }

    /// Returns the last error of a chain. Checks that every message contains the message of its cause.
    fn root<'e>(
        error: &'e (dyn std::error::Error + 'static),
    ) -> &'e (dyn std::error::Error + 'static) {
        match error.source() {
            None => error,
            Some(cause) => {
                assert!(error.to_string().contains(&cause.to_string()), "{error:?}");
                root(cause)
            }
        }
    }

    #[test]
    fn every_message_contains_the_message_of_its_cause() {
        for error in all() {
            let message = error.to_string();
            let named = error.in_file(Path::new("model.gguf"));
            assert!(message.contains(&root(&named).to_string()), "{named:?}");
        }
    }

    #[test]
    fn the_chain_of_an_io_error_ends_with_the_io_error() {
        const EIO: i32 = 5;
        let io = || Error::Io {
            path: "a.gguf".into(),
            source: io::Error::from_raw_os_error(EIO).into(),
        };
        let in_file = Error::InFile { path: "a.gguf".into(), error: Box::new(io()) };
        for error in [io(), in_file] {
            let cause: &io::Error = root(&error).downcast_ref().unwrap();
            assert_eq!(cause.raw_os_error(), Some(EIO));
        }
        let kind = Error::Io { path: "a.gguf".into(), source: io::ErrorKind::UnexpectedEof.into() };
        let cause: &io::Error = root(&kind).downcast_ref().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn naming_the_file_changes_neither_code_nor_class_nor_help() {
        for error in all() {
            let (code, class, help) = (error.code(), error.class(), error.help());
            let named = error.in_file(Path::new("model.gguf"));
            assert_eq!((named.code(), named.class(), named.help()), (code, class, help));
            assert!(named.path().is_some());
            assert!(!matches!(named.without_path(), Error::InFile { .. }));
        }
    }
}
