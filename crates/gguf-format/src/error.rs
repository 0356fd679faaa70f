//! What can be wrong, by whose fault, with numbers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::GgmlType;
use crate::codes::{self, CodeFacts};
use crate::escape::quoted;

/// Why a file was refused, or a question to it has no answer.
///
/// Variants separate by blame, see [`class`](Self::class). Each kind has a stable
/// [`code`](Self::code) for machines, a message with offset, name, expected and found for people,
/// and often a cure: [`help`](Self::help). Names from the file are printed
/// [escaped](crate::escape()).
///
/// Offsets are bytes from the start of the file (of the shard, where a model is split).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system could not read the file.
    #[error("cannot read {}: {source}", path_text(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        // Raw, so that thiserror does not take it for the cause: the message has it already.
        r#source: io::Error,
    },

    /// The file ends before what it announces.
    #[error(
        "truncated: {item} at byte {offset} needs {needed} bytes, but {available} are left in the file{}",
        missing_text(.item)
    )]
    Truncated {
        /// What was being read.
        item: Item,
        /// Where it starts.
        offset: u64,
        /// Bytes it takes, at least.
        needed: u64,
        /// Bytes from `offset` to the end of the file.
        available: u64,
    },

    /// [`Gguf::parse_header`](crate::Gguf::parse_header) was given too short a prefix: the header
    /// goes on, and so does the file. Not a fault of the file.
    #[error("the header goes on: at least {needed} bytes of the file are needed to parse it")]
    Incomplete {
        /// Bytes from the start of the file without which parsing cannot get further.
        needed: u64,
    },

    /// The bytes break a rule of the format.
    #[error("malformed at byte {offset}: {kind}")]
    Malformed {
        /// Where.
        offset: u64,
        /// Which rule.
        kind: MalformedKind,
    },

    /// Well-formed perhaps, but of a kind that this reader does not read.
    #[error("unsupported at byte {offset}: {kind}")]
    Unsupported {
        /// Where the file says so.
        offset: u64,
        /// What.
        kind: UnsupportedKind,
    },

    /// More than [`Limits`](crate::Limits) allow.
    #[error("over the limit at byte {offset}: {what} is {value}, the limit is {limit}")]
    Limit {
        /// Where the file asks for it.
        offset: u64,
        /// What there is too much of.
        what: &'static str,
        /// How much the file asks for, at least.
        value: u64,
        /// How much is allowed.
        limit: u64,
    },

    /// A key that was required is not in the metadata.
    #[error("the key {} is missing", quoted(.key))]
    Missing {
        /// The key.
        key: String,
    },

    /// A key has a value of another type than was asked for.
    #[error("the key {} must be {expected}, but is {found}", quoted(.key))]
    WrongType {
        /// The key.
        key: String,
        /// The type asked for.
        expected: &'static str,
        /// The type in the file.
        found: &'static str,
    },

    /// A key has an integer that does not fit the type asked for.
    #[error("the key {} is {value}, which is no {expected}", quoted(.key))]
    OutOfRange {
        /// The key.
        key: String,
        /// The type asked for.
        expected: &'static str,
        /// The value in the file.
        value: i128,
    },

    /// The files of a split model do not make one model.
    #[error("{}: {kind}", path_text(.path))]
    Shard {
        /// The file that is missing or does not fit.
        path: PathBuf,
        /// Why.
        kind: ShardKind,
    },

    /// There is no memory for what the header lists.
    #[error(
        "there is no memory for {what} of the header: {bytes} bytes are needed{}",
        .left.map_or_else(String::new, |left| format!(", {left} are left"))
    )]
    OutOfMemory {
        /// What it is for.
        what: &'static str,
        /// Bytes that are needed, at least.
        bytes: u64,
        /// Bytes that are left of [`Limits::max_memory`](crate::Limits::max_memory); `None` where the
        /// system refused them.
        left: Option<u64>,
    },

    /// Any of the above, in a file with a name.
    #[error("{}: {error}", path_text(.path))]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<Error>,
    },
}

/// What was being read when the file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The four bytes `GGUF`.
    Magic,
    /// The version and the two counts after the magic.
    FixedHeader,
    /// All key-value pairs together, by their count.
    KeyValues {
        /// How many the file announces.
        count: u64,
    },
    /// All tensor descriptions together, by their count.
    TensorInfos {
        /// How many the file announces.
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
        /// Where the last tensor of the file ends: the length that the file must have.
        file_end: u64,
        /// The length that it has.
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

/// Which rule of the format the bytes break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedKind {
    /// The file does not start with `GGUF`.
    #[error("not a GGUF file: it starts with {}{}", quoted(.found), looks_like_text(*.looks_like))]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
        /// What the file seems to be instead.
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
    /// A tensor's name, or a string that is asked for as text, that is not UTF-8.
    #[error("{item} is not valid UTF-8")]
    InvalidUtf8 {
        /// What it is.
        item: Item,
    },
    /// A value or array element type that GGUF does not have.
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
    /// `general.alignment` is no power of two.
    #[error("general.alignment is {value}, which is no power of two")]
    BadAlignment {
        /// The value in the file.
        value: u32,
    },
    /// More than four dimensions.
    #[error("tensor {} has {n_dims} dimensions, the most is 4", quoted(.name))]
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
    /// A row that is no whole number of blocks.
    #[error(
        "tensor {} has rows of {row_len} elements, but {ggml_type} comes in blocks of {}",
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
    #[error("tensor {} at offset {offset} in the data does not fit in 64 bits", quoted(.name))]
    TensorOverflow {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
    },
    /// An offset that is no multiple of the alignment.
    #[error(
        "tensor {} starts at offset {offset} in the data, which is no multiple of the alignment {alignment}",
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
    /// A tensor that does not start where the one before it ends, padded to the alignment.
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
        /// Where the tensors before it end.
        expected: u64,
        /// Name and type of the tensor before it, whose size decides the place.
        before: Option<Box<(String, GgmlType)>>,
    },
    /// Bytes between the descriptions of the tensors and their data that are not zero.
    #[error(
        "the padding between the header and the data is not zero: likely the number of tensors, \
         {tensors}, is too small, or the header is damaged"
    )]
    HeaderPadding {
        /// The number of tensors that the file announces.
        tensors: u64,
    },
    /// Where the data should start there is the description of one more tensor.
    #[error(
        "tensor {} follows the last of the {tensors} tensors that the file announces: likely that \
         number is too small",
        quoted(.name)
    )]
    UncountedTensor {
        /// The tensor.
        name: String,
        /// The number of tensors that the file announces.
        tensors: u64,
    },
}

/// What a file is that is not GGUF.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherFormat {
    /// In words, with an article.
    pub what: &'static str,
    /// What the user can do about it.
    pub cure: &'static str,
}

/// What this reader does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsupportedKind {
    /// A version other than 2 and 3.
    #[error("GGUF version {version}; versions 2 and 3 are supported")]
    Version {
        /// The number in the file.
        version: u32,
    },
    /// A file for big-endian machines.
    #[error("big-endian GGUF (version {version}); little-endian files are supported")]
    BigEndian {
        /// The version, read as big-endian.
        version: u32,
    },
    /// A tensor type that this version does not read: of a later ggml, of a fork, or of none.
    #[error("tensor {} has the ggml type {id}, which this version does not read", quoted(.name))]
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
        /// What the type was called.
        removed: &'static str,
    },
}

/// Why the files of a split model do not make one model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardKind {
    /// There is no such file.
    #[error("this shard of the split model is missing ({no} of {count})")]
    Missing {
        /// The shard's number in file names, from 1.
        no: u64,
        /// Shards of the model.
        count: u64,
    },
    /// The metadata speak of several shards, but the file name has no `-00001-of-0000N.gguf`.
    #[error(
        "the file is one of {count} shards by its metadata, but its name does not end in -{no:05}-of-{count:05}.gguf"
    )]
    BadName {
        /// The number the name should have, from 1.
        no: u64,
        /// Shards of the model, by the metadata.
        count: u64,
    },
    /// The file holds one shard, and other files follow in it.
    #[error(
        "the file holds shard {no} of {count}, and another GGUF file follows at byte {at}: the shards were joined"
    )]
    Joined {
        /// The number of the shard in file names, from 1.
        no: u64,
        /// Shards of the model, by the metadata.
        count: u64,
        /// Where the next file starts in this one.
        at: u64,
    },
    /// A number that no shard of the model has.
    #[error("split.no is {no}, but the {count} shards have numbers from 0")]
    NoBeyondCount {
        /// What `split.no` says.
        no: u64,
        /// Shards of the model, by the metadata.
        count: u64,
    },
    /// The file name is that of one shard of several, but the metadata make it a model by itself.
    #[error("the file is named as shard {no} of {count}, but is a model by itself by its metadata")]
    Whole {
        /// The number in the file name.
        no: u64,
        /// Shards by the file name.
        count: u64,
    },
    /// A key says otherwise than the file's place in the model.
    #[error("{key} is {found}, but this shard of the model must have {expected}")]
    Mismatch {
        /// The key.
        key: &'static str,
        /// What the key should say.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// A shard of another model: another architecture, or not split at all.
    #[error("this file does not belong to the split model: {why}")]
    Foreign {
        /// How one can tell.
        why: &'static str,
    },
    /// The shards hold another number of tensors than they announce.
    #[error("the shards hold {found} tensors, but split.tensors.count is {expected}")]
    TensorCount {
        /// What `split.tensors.count` says.
        expected: u64,
        /// Tensors of all shards.
        found: u64,
    },
    /// A tensor that another shard has as well.
    #[error("the tensor {} is in an earlier shard too", quoted(.name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
}

/// Whose fault an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The system could not read a file.
    Io,
    /// The file is broken: truncated, against the rules of the format, or lacking what was
    /// required of it. A missing shard too: the model is cut short, as a truncated file is.
    Malformed,
    /// The file may be good, but is of a kind that is not supported.
    Unsupported,
    /// The file exceeds the [`Limits`](crate::Limits) in force.
    Limit,
    /// The caller gave too few bytes; see [`Error::Incomplete`].
    Incomplete,
    /// The machine has too little memory for the header.
    Memory,
}

impl Error {
    /// Every code that [`code`](Self::code) can answer. Codes are only ever added.
    pub const ALL_CODES: &'static [&'static str] = codes::NAMES;

    /// What there is to say of this kind of error, whatever the file.
    #[must_use]
    pub fn facts(&self) -> CodeFacts {
        match self {
            Self::Io { .. } => codes::IO,
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

    /// A stable name for the kind of error, one of [`ALL_CODES`](Self::ALL_CODES).
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.facts().class
    }

    /// What the user can do about it; `None` where only the calling program can do something.
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
                "where the file is a whole model, give it a name that does not end in \
                 -00001-of-0000N.gguf; where it is a shard, fetch it again, as it is damaged",
            ),
            _ => Some(self.facts().cure),
        }
    }

    /// The file the error speaks of, where it is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::Shard { path, .. } | Self::InFile { path, .. } => {
                Some(path)
            }
            _ => None,
        }
    }

    /// The error itself, without [`InFile`](Self::InFile) around it: for matching.
    #[must_use]
    pub fn without_path(&self) -> &Self {
        match self {
            Self::InFile { error, .. } => error.without_path(),
            other => other,
        }
    }

    /// Names the file, unless the error already does.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        if self.path().is_some() {
            self
        } else {
            Self::InFile { path: path.to_owned(), error: Box::new(self) }
        }
    }
}

pub(crate) fn path_text(path: &Path) -> impl fmt::Display + '_ {
    crate::escape(path.as_os_str().as_encoded_bytes())
}

fn looks_like_text(looks_like: Option<&OtherFormat>) -> String {
    looks_like.map_or_else(String::new, |format| format!(", like {}", format.what))
}

/// How many bytes the file lacks, if that is known.
fn missing_text(item: &Item) -> String {
    let Item::TensorData { file_end, file_len, .. } = item else { return String::new() };
    let missing = file_end.saturating_sub(*file_len);
    format!("; {missing} bytes are missing: the file has {file_len}, its header wants {file_end}")
}

fn place_text(before: &Option<Box<(String, GgmlType)>>) -> String {
    before.as_deref().map_or_else(
        || "where the data starts".to_owned(),
        |(name, ggml_type)| {
            format!(
                "where tensor {} ({ggml_type}) ends: likely one of the two types has blocks of \
                 another size in this file, or the header is damaged",
                quoted(name)
            )
        },
    )
}

const JOIN_PARTS: &str = "by its name this is one part of a file that was cut in pieces: join all \
                          parts in their order, such as with `cat`, and give the result";

/// Whether a file is named as one part of several that tools cut files into: `x.gguf.part1of2`,
/// `x.gguf-split-a`, `x.gguf.part-aa`, `x.gguf.001`, `x.gguf.aa`; also with the ending after it, as in
/// `x-split-a.gguf`.
fn is_part_name(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let name = name.as_encoded_bytes().to_ascii_lowercase();
    let stem = name.strip_suffix(b".gguf").unwrap_or(&name);
    let after = |marker: &[u8]| {
        let at = stem.windows(marker.len()).rposition(|window| window == marker)?;
        stem.get(at.saturating_add(marker.len())..)
    };
    let is_number = |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit);
    let is_label = |rest: &[u8]| {
        let is_letters = (1..=3).contains(&rest.len()) && rest.iter().all(u8::is_ascii_lowercase);
        is_letters || is_number(rest)
    };
    let is_counted = |rest: &[u8]| match rest.split_first() {
        Some((b'.' | b'-' | b'_', label)) => is_label(label),
        _ => is_number(rest),
    };
    let is_gguf_ending = after(b".gguf.").is_some_and(|rest| {
        let is_number = rest.len() >= 2 && rest.iter().all(u8::is_ascii_digit);
        let is_pair = rest.len() == 2 && rest.iter().all(u8::is_ascii_lowercase);
        is_number || is_pair
    });
    is_gguf_ending
        || [&b".part"[..], b"-part", b"_part"].iter().any(|m| after(m).is_some_and(is_counted))
        || [&b"-split-"[..], b".split-"].iter().any(|m| after(m).is_some_and(is_label))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One error of every kind.
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
    fn the_list_of_codes_is_that_of_the_errors() {
        let listed: BTreeSet<_> = Error::ALL_CODES.iter().copied().collect();
        assert_eq!(listed.len(), Error::ALL_CODES.len());
        assert_eq!(all().iter().map(Error::code).collect::<BTreeSet<_>>(), listed);
        assert!(listed.iter().all(|code| code.starts_with("GGUF_")));
    }

    #[test]
    fn parts_of_a_file_are_known_by_their_names() {
        for name in [
            "x.gguf.part1of2",
            "x.gguf.part2of2",
            "X.GGUF-split-a",
            "x.gguf-split-b",
            "x.gguf.split-aa",
            "x.gguf.part-aa",
            "x.gguf.part.1",
            "x.gguf.part01",
            "x.part1.gguf",
            "x-part-a.gguf.aa",
            "x.gguf.001",
            "x.gguf.aa",
            "x-split-a.gguf",
            "x-part-a.gguf",
        ] {
            assert!(is_part_name(Path::new(name)), "{name}");
        }
        for name in [
            "x.gguf",
            "x-00001-of-00002.gguf",
            "x.gguf.bak",
            "x.gguf.1",
            "department.gguf",
            "x.particle.gguf",
            "x-split-attention.gguf",
            "x.partial",
            "",
        ] {
            assert!(!is_part_name(Path::new(name)), "{name}");
        }
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

    #[test]
    fn no_message_stands_twice_in_a_chain() {
        for error in all() {
            let named = error.in_file(Path::new("model.gguf"));
            let mut above: &dyn std::error::Error = &named;
            while let Some(cause) = above.source() {
                assert!(!above.to_string().contains(&cause.to_string()), "{named:?}");
                above = cause;
            }
        }
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
