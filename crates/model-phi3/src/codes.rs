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
        "The file contains a model of another architecture, or no model.",
        "give a model of the Phi-3 family; its architecture is phi3, or llama after a conversion to the Llama layout";
    INVALID_VALUE: Malformed, "PHI3_INVALID_VALUE",
        "The value of a key is impossible for a Phi-3 model.",
        "the file is damaged or from an unknown converter: fetch it again, or convert the model \
         with a current llama.cpp";
    UNSUPPORTED_VALUE: Unsupported, "PHI3_UNSUPPORTED_VALUE",
        "The value of a key, such as a number of experts, is valid for other models, but not \
         supported for Phi-3.",
        "give a model of the Phi-3 family";
    TENSOR_MISMATCH: Malformed, "PHI3_TENSOR_MISMATCH",
        "Tensors are missing, duplicated, of the wrong shape, or in a layer that the model does not \
         have. The message names them.",
        "the file is damaged or from an unknown converter: fetch it again, or convert the model \
         with a current llama.cpp";
    UNSUPPORTED_TENSOR: Unsupported, "PHI3_UNSUPPORTED_TENSOR",
        "The file has tensors that a Phi-3 model does not have, such as biases, or tensors of the \
         wrong type, such as integer weights, or RoPE factors or scales that are not F32.",
        "give a model of the Phi-3 family that a current llama.cpp converted: without adapters, with \
         weights of a float or block type, and with RoPE factors in F32";
    NO_CONVERSION: Unsupported, "PHI3_NO_CONVERSION",
        "A tensor has a type that cannot be decoded to half precision.",
        "load with native storage, or quantise the model to another type";
    TOO_LARGE: Malformed, "PHI3_TOO_LARGE",
        "The size of the model in bytes exceeds 64 bits.",
        "the file is damaged or malicious: fetch it again from its publisher";
    INVALID_PLAN: Internal, "PHI3_INVALID_PLAN",
        "A load plan breaks one of its own rules, or was requested with the configuration of another model.",
        "this is a bug: please report it with this message and the file's name";
    NOT_A_MODEL: Unsupported, "PHI3_NOT_A_MODEL",
        "The file does not contain the weights of a model. It may contain an adapter, an importance \
         matrix, a projector, or only a vocabulary.",
        "give the file that contains the model's weights; if you have an adapter, merge it into them first";
    PLACEMENT: Unsupported, "PHI3_PLACEMENT",
        "A tensor cannot be divided among this number of devices. The message names the tensor and the numbers \
         that are possible.",
        "choose a number of devices that the message names, another split mode such as layer, or f16 storage, \
         which has smaller units";
}
