//! The error codes with class, cause and cure.

/// The class of an [`Error`](crate::Error): the part that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The system could not read a file.
    Io,
    /// The file is broken: it is truncated, breaks a rule of the format, or lacks a required key. A missing
    /// shard is in this class, because the model is then truncated.
    Malformed,
    /// The file may be valid, but it is of a kind that is not supported.
    Unsupported,
    /// The file exceeds the [`Limits`](crate::Limits).
    Limit,
    /// The caller gave too few bytes; see [`Error::Incomplete`](crate::Error::Incomplete).
    Incomplete,
    /// The machine has too little memory for the header.
    Memory,
    /// The crate that reports the error has a bug. This crate reports none: the class is for crates that
    /// build on it.
    Internal,
}

/// An error code with its class, cause and cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodeFacts {
    /// The code.
    pub code: &'static str,
    /// The class.
    pub class: ErrorClass,
    /// The cause of the error: full sentences.
    pub cause: &'static str,
    /// The advice to the user, without a full stop at the end.
    pub cure: &'static str,
}

impl CodeFacts {
    /// Makes the facts of a code of another crate, which reports errors in the same form.
    #[must_use]
    pub const fn new(
        code: &'static str,
        class: ErrorClass,
        cause: &'static str,
        cure: &'static str,
    ) -> Self {
        Self { code, class, cause, cure }
    }
}

/// Defines a constant for each code, and the list of all codes.
macro_rules! codes {
    ($($name:ident: $class:ident, $code:literal, $cause:literal, $cure:expr;)+) => {
        $(pub(crate) const $name: CodeFacts =
            CodeFacts::new($code, ErrorClass::$class, $cause, $cure);)+

        pub(crate) const ALL: &[CodeFacts] = &[$($name),+];
    };
}

const DAMAGED: &str = "the file is damaged or was written by a faulty program: fetch it again, or \
                       convert the model with a current llama.cpp";
const MISPLACED: &str = "the file uses another block size for a tensor type, as forks of ggml may do, or the \
                         header is damaged: fetch the file again, or convert the model with a current llama.cpp";
const CONVERTED_WRONGLY: &str = "the file is damaged or from an unknown converter: fetch it \
                                 again, or convert the model with a current llama.cpp";

codes! {
    IO: Io, "GGUF_IO",
        "The system cannot open or read the file, for another reason than those of FILE_NOT_FOUND and \
         FILE_PERMISSION.",
        "check that the path is that of a regular file; if it is, check the disk or the file server";
    TRUNCATED: Malformed, "GGUF_TRUNCATED",
        "The file is shorter than its header says.",
        "the download is probably incomplete: compare the file's size with the publisher's and \
         fetch it again";
    HEADER_INCOMPLETE: Incomplete, "GGUF_HEADER_INCOMPLETE",
        "A program passed only the first bytes of a file to the parser, and the header is longer.",
        "pass at least the number of bytes in the message: the file has them";
    BAD_MAGIC: Malformed, "GGUF_BAD_MAGIC",
        "The file does not start with the bytes `GGUF`.",
        "give a .gguf file, and check that it was fetched completely and by its download link; if it \
         is a later part of a file that was cut into parts, join all parts in order";
    EMPTY_NAME: Malformed, "GGUF_EMPTY_NAME",
        "The name of a key or a tensor is empty.",
        DAMAGED;
    INVALID_UTF8: Malformed, "GGUF_INVALID_UTF8",
        "The name of a tensor, or a string that a program requests as text, is not valid UTF-8.",
        DAMAGED;
    UNKNOWN_VALUE_TYPE: Malformed, "GGUF_UNKNOWN_VALUE_TYPE",
        "The value of a key has a type that GGUF does not define.",
        DAMAGED;
    INVALID_BOOL: Malformed, "GGUF_INVALID_BOOL",
        "A boolean is neither 0 nor 1.",
        DAMAGED;
    DUPLICATE_KEY: Malformed, "GGUF_DUPLICATE_KEY",
        "A key occurs twice.",
        DAMAGED;
    DUPLICATE_TENSOR: Malformed, "GGUF_DUPLICATE_TENSOR",
        "Two tensors have the same name, in one file or in two shards of a model.",
        "the file is damaged or was written by a faulty program: fetch it again; if the model is \
         split, fetch all shards from the same source";
    BAD_ALIGNMENT: Malformed, "GGUF_BAD_ALIGNMENT",
        "`general.alignment` is not a power of two.",
        DAMAGED;
    TOO_MANY_DIMENSIONS: Malformed, "GGUF_TOO_MANY_DIMENSIONS",
        "A tensor has more than four dimensions.",
        DAMAGED;
    TENSOR_OVERFLOW: Malformed, "GGUF_TENSOR_OVERFLOW",
        "The number of elements or bytes of a tensor is too large for 64 bits.",
        DAMAGED;
    PARTIAL_BLOCK: Malformed, "GGUF_PARTIAL_BLOCK",
        "The row length of a tensor is not a multiple of the block size of its type.",
        DAMAGED;
    MISALIGNED_TENSOR: Malformed, "GGUF_MISALIGNED_TENSOR",
        "A tensor does not start at a multiple of the file's alignment.",
        DAMAGED;
    OVERLAPPING_TENSORS: Malformed, "GGUF_OVERLAPPING_TENSORS",
        "A tensor starts before the previous tensor ends.",
        MISPLACED;
    UNSUPPORTED_VERSION: Unsupported, "GGUF_UNSUPPORTED_VERSION",
        "The GGUF version of the file is neither 2 nor 3.",
        "version 1: convert the model again with a current llama.cpp; version 0: the file is \
         incomplete or damaged, so fetch it again; any other version: the file is newer than this \
         reader, or damaged";
    BIG_ENDIAN: Unsupported, "GGUF_BIG_ENDIAN",
        "The file is for big-endian machines.",
        "convert the file with llama.cpp's gguf_convert_endian.py, or fetch the little-endian one";
    UNKNOWN_TENSOR_TYPE: Unsupported, "GGUF_UNKNOWN_TENSOR_TYPE",
        "A tensor has a type that this version does not support.",
        "the file is newer than this reader, made by a fork of ggml, or damaged";
    REMOVED_TENSOR_TYPE: Unsupported, "GGUF_REMOVED_TENSOR_TYPE",
        "A tensor has a type that ggml has removed.",
        "quantise the model again with a current llama.cpp";
    LIMIT_EXCEEDED: Limit, "GGUF_LIMIT_EXCEEDED",
        "A header, or all headers of a split model together, exceeds one of the limits.",
        "the file is damaged or malicious; a program that trusts the file can raise the limit";
    MISSING_KEY: Malformed, "GGUF_MISSING_KEY",
        "A required key is missing.",
        CONVERTED_WRONGLY;
    WRONG_TYPE: Malformed, "GGUF_WRONG_TYPE",
        "The value of a key has the wrong type.",
        CONVERTED_WRONGLY;
    VALUE_OUT_OF_RANGE: Malformed, "GGUF_VALUE_OUT_OF_RANGE",
        "The value of a key is out of range, such as a negative size.",
        CONVERTED_WRONGLY;
    SHARD_MISSING: Malformed, "GGUF_SHARD_MISSING",
        "A shard of a split model is missing from the folder of the other shards.",
        "put all shards of the model into one folder, under their published names";
    SHARD_NAME: Malformed, "GGUF_SHARD_NAME",
        "A file is a shard of a split model, but does not have the name of a shard.",
        "give the shards their published names, which end in -00001-of-0000N.gguf";
    SHARD_MISMATCH: Malformed, "GGUF_SHARD_MISMATCH",
        "A shard belongs to another model, or to another position in the model.",
        "use the shards of one model, under their published names";
    MISPLACED_TENSOR: Malformed, "GGUF_MISPLACED_TENSOR",
        "There is a gap between a tensor and the previous tensor. No known tool writes such gaps.",
        MISPLACED;
    HEADER_PADDING: Malformed, "GGUF_HEADER_PADDING",
        "The bytes between the header and the data are not all zero.",
        "the header is damaged, probably its number of tensors: fetch the file again";
    SHARDS_JOINED: Malformed, "GGUF_SHARDS_JOINED",
        "The shards of a split model were joined into one file. Such a file is not a model.",
        "use the shards as they were published, or merge them with llama.cpp's \
         `llama-gguf-split --merge`";
    OUT_OF_MEMORY: Memory, "GGUF_OUT_OF_MEMORY",
        "The host has too little memory for the lists of keys and tensors of a header.",
        "free host memory, or raise the memory limit of the process";
    FILE_NOT_FOUND: Io, "FILE_NOT_FOUND",
        "There is no file at the path.",
        "check the path, and that the file system is mounted";
    FILE_PERMISSION: Io, "FILE_PERMISSION",
        "The process is not allowed to read the file.",
        "give the user of this process permission to read the file and to enter its folders";
}
