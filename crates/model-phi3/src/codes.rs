//! The error codes of this crate with class, cause and cure.

use gguf_format::{CodeFacts, ErrorClass};

/// Defines a constant for each code, and the list of all codes.
macro_rules! codes {
    ($($name:ident: $class:ident, $code:literal, $cause:literal, $cure:literal;)+) => {
        $(pub(crate) const $name: CodeFacts =
            CodeFacts::new($code, ErrorClass::$class, $cause, $cure);)+

        pub(crate) const ALL: &[CodeFacts] = &[$($name),+];
    };
}

codes! {
    UNSUPPORTED_ARCHITECTURE: Unsupported, "PHI3_UNSUPPORTED_ARCHITECTURE",
        "The file holds a model of another architecture, or none.",
        "give a file of the Phi-3 family: architecture phi3, or llama for a llamafied one";
    INVALID_VALUE: Malformed, "PHI3_INVALID_VALUE",
        "A key has a value that no Phi-3 model can have.",
        "the file is damaged or from an unknown converter: fetch it again, or convert the model \
         with a current llama.cpp";
    UNSUPPORTED_VALUE: Unsupported, "PHI3_UNSUPPORTED_VALUE",
        "A key has a value that other models have, and that has no meaning for Phi-3's weights, such \
         as a number of experts.",
        "give a model of the Phi-3 family; this one is another";
    TENSOR_MISMATCH: Malformed, "PHI3_TENSOR_MISMATCH",
        "Tensors are missing, misshapen, there twice, or of a layer that the model does not have. The \
         message names them.",
        "the file is damaged or from an unknown converter: fetch it again, or convert the model \
         with a current llama.cpp";
    UNSUPPORTED_TENSOR: Unsupported, "PHI3_UNSUPPORTED_TENSOR",
        "The file has tensors that a Phi-3 model does not have, such as biases, or tensors of the \
         wrong type: weights that are integers, RoPE factors or scales that are not F32.",
        "give the plain model, of the Phi-3 family, as a current llama.cpp converts it: without \
         adapters, with weights of a float or block type, and with RoPE factors in F32";
    NO_CONVERSION: Unsupported, "PHI3_NO_CONVERSION",
        "A tensor has a type that cannot be decoded to half precision.",
        "load with native storage, or quantise the model to another type";
    TOO_LARGE: Malformed, "PHI3_TOO_LARGE",
        "The model takes more bytes than 64 bits can count.",
        "the file is damaged or made to do harm: fetch it again from its publisher";
    INVALID_PLAN: Internal, "PHI3_INVALID_PLAN",
        "A load plan breaks one of its own rules, or was asked for with another model's configuration.",
        "this is a bug: please report it with this message and the file's name";
    NOT_A_MODEL: Unsupported, "PHI3_NOT_A_MODEL",
        "The file holds something else than a model's weights: an adapter, an importance matrix, a \
         projector, or a vocabulary alone.",
        "give the file that has the model's weights; an adapter must be merged into them";
}
