/* The weights of a loaded Phi-3 model, for C and C++ consumers.
 *
 * Build scripts of crates that depend on `loader` find this file's folder in
 * DEP_PHI3_LOADER_INCLUDE. The structs are filled by `LoadedModel::c_weights()` and point into the
 * model's one device allocation: they are valid while the model is.
 *
 * A consumer checks abi_version first: it is PHI3_WEIGHTS_ABI of the header that the loader was built
 * with, and changes where fields are moved or change their meaning. Where it is the consumer's own,
 * a later loader may still have added fields at the ends of Phi3Weights and Phi3LayerWeights:
 * struct_size and layer_size say how long they are. Step through layers by layer_size, not by sizeof.
 */
#ifndef PHI3_WEIGHTS_H
#define PHI3_WEIGHTS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PHI3_WEIGHTS_ABI 1u

/* How Q and K rows are laid out for the rotary embedding. */
enum {
  PHI3_ROPE_NEOX = 0,    /* the two values of a pair are half a head apart */
  PHI3_ROPE_ADJACENT = 1 /* they stand next to each other */
};

/* What maps positions beyond the original context. */
enum {
  PHI3_ROPE_SCALING_NONE = 0,
  PHI3_ROPE_SCALING_LINEAR = 1,  /* positions are divided by rope_scaling_factor */
  PHI3_ROPE_SCALING_YARN = 2,    /* YaRN, by rope_scaling_factor */
  PHI3_ROPE_SCALING_LONGROPE = 3 /* frequencies are divided by the long or short factors */
};

/* A matrix [rows, cols] or, with one row, a vector; row-major. */
typedef struct Phi3Tensor {
  const void* data;   /* device address; null where the model has no such tensor */
  /* Device addresses of one float each, of NVFP4 weights that are kept as they are in the file, where
     it has them; else null. All values of the tensor are multiplied by the first; the second is the
     scale of the activations. */
  const float* scale;
  const float* input_scale;
  uint64_t bytes;     /* rows * row_bytes */
  uint64_t rows;
  uint64_t cols;
  uint64_t row_bytes; /* rows are whole blocks of ggml_type */
  uint32_t ggml_type; /* ggml's number of what the bytes are: 0 is F32, 1 is F16 */
  uint32_t reserved;
} Phi3Tensor;

typedef struct Phi3LayerWeights {
  Phi3Tensor attn_norm;   /* [hidden] */
  Phi3Tensor attn_q;      /* [q_heads * head_dim, hidden] */
  Phi3Tensor attn_k;      /* [kv_heads * head_dim, hidden] */
  Phi3Tensor attn_v;      /* [kv_heads * head_dim, hidden] */
  Phi3Tensor attn_output; /* [hidden, q_heads * head_dim] */
  Phi3Tensor ffn_norm;    /* [hidden] */
  Phi3Tensor ffn_gate;    /* [ffn, hidden] */
  Phi3Tensor ffn_up;      /* [ffn, hidden] */
  Phi3Tensor ffn_down;    /* [hidden, ffn] */
} Phi3LayerWeights;

typedef struct Phi3Weights {
  uint32_t abi_version; /* PHI3_WEIGHTS_ABI of the loader */
  uint32_t struct_size; /* bytes of Phi3Weights */
  uint32_t layer_size;  /* bytes of Phi3LayerWeights */
  uint32_t layer_count;
  Phi3Tensor token_embedding; /* [vocab, hidden] */
  Phi3Tensor output_norm;     /* [hidden] */
  Phi3Tensor output;          /* [vocab, hidden]; the embedding itself where tied */
  Phi3Tensor rope_factors_long;  /* [rope_dim / 2], F32, optional */
  Phi3Tensor rope_factors_short; /* [rope_dim / 2], F32, optional */
  const Phi3LayerWeights* layers; /* host address of layer_count structs */
  int32_t cuda_ordinal; /* the GPU that holds the data; -1 for host memory */
  uint32_t q_heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  float attention_scale; /* 1 / sqrt(head_dim) */
  uint32_t rope_style;   /* PHI3_ROPE_* */
  uint32_t rope_dim;     /* leading values of a head that are rotated */
  float rope_freq_base;
  /* What cos and sin are multiplied by, for Q and for K, so that rotated values of both are scaled
     and others are not; 0 where the file has none. */
  float rope_attn_factor;
  uint32_t rope_scaling;     /* PHI3_ROPE_SCALING_* */
  float rope_scaling_factor; /* 0 where the file has none */
  uint32_t rope_original_context; /* 0 where the file has none */
  uint32_t context_length;
  /* Tokens that a token attends to; 0 where the file says 0, which is the whole context, or says
     nothing, which may be of a model that has a window. */
  uint32_t sliding_window;
  float rms_epsilon;
} Phi3Weights;

#ifdef __cplusplus
}
#endif

#endif
