/* The weights of a loaded Phi-3 model, for C and C++ consumers.
 *
 * Build scripts of crates that depend on `loader` find this file's folder in the environment variable
 * DEP_PHI3_LOADER_INCLUDE. `LoadedModel::c_weights()` and `shared_c_weights()` fill the structs. Their data
 * pointers point into one device allocation.
 *
 * Several devices: the two functions return a model only if one device holds all of it. Otherwise
 * `LoadedPart::c_weights()` and `LoadedModel::shared_c_weights_of_part()` fill one Phi3Weights for each device. A
 * tensor of which the device holds nothing has a null pointer. A tensor of which it holds a part has the rows
 * first_row to first_row + rows, and the columns first_col to first_col + cols, of whole_rows rows and
 * whole_cols columns. With one device, each tensor is whole.
 *
 * Lifetime: pointers are valid until the model is dropped. The shared forms keep the model.
 * Context: on a GPU, the memory belongs to the device's primary context, which the CUDA runtime uses as well.
 * Order: when the load returns, all bytes have arrived for every stream. No event or synchronisation is needed.
 * Alignment: weights start on multiples of 256 bytes, except parts of a tensor that the file has fused: K, V and
 * up, for example, start on a row, thus on a multiple of row_bytes after the start of the first part.
 * Access: the weights are shared and must not be written to.
 *
 * A consumer must first compare abi_version with its own PHI3_WEIGHTS_ABI. The number changes when fields
 * move or change their meaning. It does not change when a later loader adds fields at the ends of
 * Phi3Weights and Phi3LayerWeights: struct_size and layer_size are the actual sizes in bytes. Step
 * through layers by layer_size, not by sizeof.
 */
#ifndef PHI3_WEIGHTS_H
#define PHI3_WEIGHTS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 2: Phi3Tensor has its range of the whole tensor, and Phi3Weights the number and the heads of the part. */
#define PHI3_WEIGHTS_ABI 2u

/* Order of the rows of Q and K for the rotary embedding. */
enum {
  PHI3_ROPE_NEOX = 0,    /* the two values of a pair are half a head apart */
  PHI3_ROPE_ADJACENT = 1 /* the two values of a pair are adjacent */
};

/* Scaling of the rotary embedding for positions beyond the original context. */
enum {
  PHI3_ROPE_SCALING_NONE = 0,
  PHI3_ROPE_SCALING_LINEAR = 1,  /* positions are divided by rope_scaling_factor */
  PHI3_ROPE_SCALING_YARN = 2,    /* YaRN, by rope_scaling_factor */
  PHI3_ROPE_SCALING_LONGROPE = 3 /* frequencies are divided by the long or short factors */
};

/* A matrix [rows, cols] or, with one row, a vector; row-major. It may be a part of the tensor whose shape the
   comments below give. */
typedef struct Phi3Tensor {
  const void* data;   /* device address; null if the model has no such tensor, or the device nothing of it */
  /* Each points to one float on the device. `scale` is the factor of all values of the tensor,
     `input_scale` is the scale of the activations. Only NVFP4 weights in native storage have them, and
     only if the file contains them; otherwise null. */
  const float* scale;
  const float* input_scale;
  uint64_t bytes;     /* rows * row_bytes */
  uint64_t rows;
  uint64_t cols;
  uint64_t row_bytes; /* rows are whole blocks of ggml_type */
  uint32_t ggml_type; /* ggml's number of the type: 0 is F32, 1 is F16 */
  uint32_t reserved;
  uint64_t first_row;  /* first_row and first_col: the place in the whole tensor */
  uint64_t first_col;
  uint64_t whole_rows; /* whole_rows and whole_cols: the size of the whole tensor */
  uint64_t whole_cols;
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
  /* Several of the tensors above as one matrix, if they are one matrix in memory; otherwise data is
     null. If they are parts, first_row is 0: each of the tensors above has its own. */
  Phi3Tensor attn_qkv;    /* [(q_heads + 2 * kv_heads) * head_dim, hidden]: Q, K, V */
  Phi3Tensor ffn_gate_up; /* [2 * ffn, hidden]: gate, up */
} Phi3LayerWeights;

typedef struct Phi3Weights {
  uint32_t abi_version; /* PHI3_WEIGHTS_ABI of the loader */
  uint32_t struct_size; /* bytes of Phi3Weights */
  uint32_t layer_size;  /* bytes of Phi3LayerWeights */
  uint32_t layer_count;
  Phi3Tensor token_embedding; /* [vocab, hidden] */
  Phi3Tensor output_norm;     /* [hidden] */
  Phi3Tensor output;          /* [vocab, hidden]; same address as token_embedding if tied */
  Phi3Tensor rope_factors_long;  /* [rope_dim / 2], F32, optional */
  Phi3Tensor rope_factors_short; /* [rope_dim / 2], F32, optional */
  const Phi3LayerWeights* layers; /* host address of layer_count structs */
  int32_t cuda_ordinal; /* the GPU that holds the data; -1 for host memory */
  uint32_t q_heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  float attention_scale; /* 1 / sqrt(head_dim) */
  uint32_t rope_style;   /* PHI3_ROPE_* */
  uint32_t rope_dim;     /* number of leading values of a head that are rotated */
  float rope_freq_base;
  /* Factor of cos and sin, for Q and for K. It scales only the rotated values of both. 0 if the file
     has none. */
  float rope_attn_factor;
  uint32_t rope_scaling;     /* PHI3_ROPE_SCALING_* */
  float rope_scaling_factor; /* 0 if the file has none */
  uint32_t rope_original_context; /* 0 if the file has none */
  uint32_t context_length;
  /* Number of tokens that a token attends to. 0 if the file contains 0, which means the whole context,
     or has no such key. A model without the key may still need a window. */
  uint32_t sliding_window;
  float rms_epsilon;
  uint32_t part;  /* the number of this part, counted from 0 */
  uint32_t parts; /* the number of parts that the model has */
  /* Attention heads of the part. first_q_head and first_kv_head are numbers in the whole model. All four are 0
     if the part holds no Q, K, V and attention output. */
  uint32_t first_q_head;
  uint32_t part_q_heads;
  uint32_t first_kv_head;
  uint32_t part_kv_heads;
} Phi3Weights;

#ifdef __cplusplus
}
#endif

#endif
