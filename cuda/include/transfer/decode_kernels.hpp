// Decoding and copying on a CUDA device. Needs no CUDA header.
#pragma once

#include <cstdint>

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace transfer::decode {

// A run of whole blocks and where their halves go: device pointers, both 16-byte aligned, to memory
// that does not overlap.
struct Segment {
  const std::uint8_t* src;
  void* dst;
  std::uint64_t elements;
};

inline constexpr int kMaxBatch = 64;

struct SegmentBatch {
  Segment segments[kMaxBatch];
  std::uint32_t count;
};

// Both launch one kernel for the whole batch on `stream` of the current device and do not wait.
// They return a cudaError_t: cudaErrorInvalidValue for a type that cannot be decoded or a batch
// that is too large, else what the launch gave.
int launch_decode_to_f16(std::uint32_t ggml_type_id, const SegmentBatch& batch,
                         cudaStream_t stream) noexcept;

// Copies as they are; `elements` counts bytes.
int launch_copy(const SegmentBatch& batch, cudaStream_t stream) noexcept;

}  // namespace transfer::decode
