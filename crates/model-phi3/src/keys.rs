//! The metadata keys of a model, as llama.cpp names them.

/// The architecture, which is the prefix of most other keys.
pub(crate) const ARCHITECTURE: &str = "general.architecture";
/// The kind of content: `model`, or something else.
pub(crate) const TYPE: &str = "general.type";
/// The name of the model.
pub(crate) const NAME: &str = "general.name";
/// llama.cpp's number of the mix of tensor types.
pub(crate) const FILE_TYPE: &str = "general.file_type";
pub(crate) const TOKENIZER_MODEL: &str = "tokenizer.ggml.model";
pub(crate) const TOKENIZER_PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(crate) const TOKEN_SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const TOKEN_MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const BOS_ID: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS_ID: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const EOT_ID: &str = "tokenizer.ggml.eot_token_id";
pub(crate) const UNKNOWN_ID: &str = "tokenizer.ggml.unknown_token_id";
pub(crate) const PADDING_ID: &str = "tokenizer.ggml.padding_token_id";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(crate) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

// The keys below follow the prefix of the architecture.
pub(crate) const BLOCK_COUNT: &str = "block_count";
pub(crate) const CONTEXT_LENGTH: &str = "context_length";
pub(crate) const EMBEDDING_LENGTH: &str = "embedding_length";
pub(crate) const FEED_FORWARD_LENGTH: &str = "feed_forward_length";
pub(crate) const EXPERT_COUNT: &str = "expert_count";
pub(crate) const VOCAB_SIZE: &str = "vocab_size";
pub(crate) const HEAD_COUNT: &str = "attention.head_count";
pub(crate) const HEAD_COUNT_KV: &str = "attention.head_count_kv";
pub(crate) const KEY_LENGTH: &str = "attention.key_length";
pub(crate) const VALUE_LENGTH: &str = "attention.value_length";
pub(crate) const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
pub(crate) const SLIDING_WINDOW: &str = "attention.sliding_window";
pub(crate) const ROPE_DIMENSION_COUNT: &str = "rope.dimension_count";
pub(crate) const ROPE_FREQ_BASE: &str = "rope.freq_base";
pub(crate) const SCALING_TYPE: &str = "rope.scaling.type";
pub(crate) const SCALING_FACTOR: &str = "rope.scaling.factor";
/// The older name of [`SCALING_FACTOR`].
pub(crate) const SCALE_LINEAR: &str = "rope.scale_linear";
pub(crate) const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";
pub(crate) const ATTN_FACTOR: &str = "rope.scaling.attn_factor";
