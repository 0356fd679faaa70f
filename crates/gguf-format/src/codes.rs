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

const DAMAGED: &str = "the file is damaged or was written wrongly: fetch it again, or convert the \
                       model with a current llama.cpp";
const MISPLACED: &str = "a type has blocks of another size in this file, as a fork of ggml writes it, or the \
                         header is damaged: fetch the file again, or convert the model with a current llama.cpp";
const CONVERTED_WRONGLY: &str = "the file is damaged or from an unknown converter: fetch it \
                                 again, or convert the model with a current llama.cpp";

codes! {
    IO: Io, "GGUF_IO",
        "The system cannot open or read the file.",
        "check the path and the permissions; where those are right, the disk";
    TRUNCATED: Malformed, "GGUF_TRUNCATED",
        "The file ends before what its header announces.",
        "the download is probably incomplete: compare the file's size with the publisher's and \
         fetch it again";
    HEADER_INCOMPLETE: Incomplete, "GGUF_HEADER_INCOMPLETE",
        "A program gave the first bytes of a file to the parser, and the header goes on after them.",
        "give the parser the bytes that the message asks for: the file has them";
    BAD_MAGIC: Malformed, "GGUF_BAD_MAGIC",
        "The file does not start with the bytes `GGUF`.",
        "give a .gguf file, and make sure that it was fetched whole and by its own link; if it is a \
         later part of a split file, join all parts in their order";
    EMPTY_NAME: Malformed, "GGUF_EMPTY_NAME",
        "A key or a tensor has a name of no bytes.",
        DAMAGED;
    INVALID_UTF8: Malformed, "GGUF_INVALID_UTF8",
        "A tensor's name is not valid UTF-8, or a string that is asked for as text is not.",
        DAMAGED;
    UNKNOWN_VALUE_TYPE: Malformed, "GGUF_UNKNOWN_VALUE_TYPE",
        "A key has a value of a type that GGUF does not have.",
        DAMAGED;
    INVALID_BOOL: Malformed, "GGUF_INVALID_BOOL",
        "A boolean is neither 0 nor 1.",
        DAMAGED;
    DUPLICATE_KEY: Malformed, "GGUF_DUPLICATE_KEY",
        "A key occurs twice.",
        DAMAGED;
    DUPLICATE_TENSOR: Malformed, "GGUF_DUPLICATE_TENSOR",
        "A tensor's name occurs twice, in one file or in two shards of a model.",
        "the file is damaged or was written wrongly: fetch it again, all shards of a split model \
         from one place";
    BAD_ALIGNMENT: Malformed, "GGUF_BAD_ALIGNMENT",
        "`general.alignment` is not a power of two.",
        DAMAGED;
    TOO_MANY_DIMENSIONS: Malformed, "GGUF_TOO_MANY_DIMENSIONS",
        "A tensor has more than four dimensions.",
        DAMAGED;
    TENSOR_OVERFLOW: Malformed, "GGUF_TENSOR_OVERFLOW",
        "A tensor has more elements or bytes than 64 bits can count.",
        DAMAGED;
    PARTIAL_BLOCK: Malformed, "GGUF_PARTIAL_BLOCK",
        "A tensor's rows are no whole number of its type's blocks.",
        DAMAGED;
    MISALIGNED_TENSOR: Malformed, "GGUF_MISALIGNED_TENSOR",
        "A tensor does not start on a multiple of the file's alignment.",
        DAMAGED;
    OVERLAPPING_TENSORS: Malformed, "GGUF_OVERLAPPING_TENSORS",
        "A tensor starts before the one before it ends.",
        MISPLACED;
    UNSUPPORTED_VERSION: Unsupported, "GGUF_UNSUPPORTED_VERSION",
        "The file has another version of GGUF than 2 and 3.",
        "version 1: convert the model again with a current llama.cpp; version 0: the file is \
         unfinished or damaged, so fetch it again; another version: the file is newer than this \
         reader, or damaged";
    BIG_ENDIAN: Unsupported, "GGUF_BIG_ENDIAN",
        "The file is for big-endian machines.",
        "convert the file with llama.cpp's gguf_convert_endian.py, or fetch the little-endian one";
    UNKNOWN_TENSOR_TYPE: Unsupported, "GGUF_UNKNOWN_TENSOR_TYPE",
        "A tensor has a type that this version does not read.",
        "the file is newer than this reader, made by a fork of ggml, or damaged";
    REMOVED_TENSOR_TYPE: Unsupported, "GGUF_REMOVED_TENSOR_TYPE",
        "A tensor has a type that ggml has removed.",
        "quantise the model again with a current llama.cpp";
    LIMIT_EXCEEDED: Limit, "GGUF_LIMIT_EXCEEDED",
        "The header, or the headers of all shards together, ask for more than the limits in force allow.",
        "the file is damaged, or made to do harm; a program that trusts it can raise the limit";
    MISSING_KEY: Malformed, "GGUF_MISSING_KEY",
        "A key that every such model has is not there.",
        CONVERTED_WRONGLY;
    WRONG_TYPE: Malformed, "GGUF_WRONG_TYPE",
        "A key has a value of another type than it must have.",
        CONVERTED_WRONGLY;
    VALUE_OUT_OF_RANGE: Malformed, "GGUF_VALUE_OUT_OF_RANGE",
        "A key has a number that cannot be one of its kind, such as a negative size.",
        CONVERTED_WRONGLY;
    SHARD_MISSING: Malformed, "GGUF_SHARD_MISSING",
        "A file of a split model is not beside the others.",
        "put all shards of the model into one folder, under their published names";
    SHARD_NAME: Malformed, "GGUF_SHARD_NAME",
        "A file is a shard of a split model, and its name is not that of a shard.",
        "give the shards their published names, which end in -00001-of-0000N.gguf";
    SHARD_MISMATCH: Malformed, "GGUF_SHARD_MISMATCH",
        "A file of a split model belongs to another model or another place in it.",
        "the shards must come from one model, under their published names";
    MISPLACED_TENSOR: Malformed, "GGUF_MISPLACED_TENSOR",
        "A tensor does not start where the one before it ends: there is a gap that no tool leaves.",
        MISPLACED;
    HEADER_PADDING: Malformed, "GGUF_HEADER_PADDING",
        "Between the header and the data there is something else than zeros.",
        "the header is damaged, likely its number of tensors: fetch the file again";
    SHARDS_JOINED: Malformed, "GGUF_SHARDS_JOINED",
        "The shards of a split model were joined into one file, which makes no model.",
        "give the shards as they were published, or merge them with llama.cpp's \
         `llama-gguf-split --merge`";
    OUT_OF_MEMORY: Memory, "GGUF_OUT_OF_MEMORY",
        "There is no memory for the lists of keys and tensors of a header.",
        "free memory on the machine, or raise the limit that the process has";
}
