// Kernels of the CUDA device. Needs no CUDA header.
//
// Each function launches one kernel for a whole batch on `stream` of the current device and does
// not wait. It returns a cudaError_t: cudaErrorInvalidValue for a type that cannot be decoded or a
// batch that is too large, cudaErrorMisalignedAddress, or the result of the launch.
#pragma once

#include <cstdint>

#include "transfer/crop.hpp"
#include "transfer/digest.hpp"
#include "transfer/non_finite.hpp"

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace phi3::transfer::kernels {

inline constexpr int kMaxBatch = 64;

// All pointers are to device memory. Pointers to data are 16-byte aligned.
template <class Item>
struct LaunchBatch {
  Item items[kMaxBatch];
  std::uint32_t count;
};

inline bool is_unit_aligned(const void* pointer) noexcept {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

// Source bytes or whole blocks, and the destination of the bytes or of the decoded halves. Source
// and destination do not overlap.
struct MoveSegment {
  const std::uint8_t* src;
  void* dst;
  std::uint64_t elements;
  float scale;  // only for types with a tensor scale
  Crop crop;    // only for types with blocks

  bool is_aligned() const noexcept { return is_unit_aligned(src) && is_unit_aligned(dst); }
};

int launch_decode_to_f16(std::uint32_t ggml_type_id, const LaunchBatch<MoveSegment>& batch,
                         cudaStream_t stream) noexcept;

// Copies bytes unchanged; `elements` counts bytes.
int launch_copy(const LaunchBatch<MoveSegment>& batch, cudaStream_t stream) noexcept;

// Floats to examine, and counters to add to.
struct CountSegment {
  const void* floats;
  NonFinite* counters;
  std::uint64_t elements;

  bool is_aligned() const noexcept { return is_unit_aligned(floats); }
};

// All floats have the same format, which is not kNone.
int launch_count_non_finite(FloatFormat format, const LaunchBatch<CountSegment>& batch,
                            cudaStream_t stream) noexcept;

// A piece of a range that starts `offset` bytes into it, and the digest to which its part is added.
struct DigestSegment {
  const std::uint8_t* data;
  Digest* digest;
  std::uint64_t elements;  // bytes
  std::uint64_t offset;

  bool is_aligned() const noexcept { return is_unit_aligned(data); }
};

int launch_digest(const LaunchBatch<DigestSegment>& batch, cudaStream_t stream) noexcept;

// The runtime loads a kernel's code on first use, which takes longer than the kernel. These
// functions load it in advance: for a decoder, for launch_copy, for counting, and for digests.
int load_decoder(std::uint32_t ggml_type_id) noexcept;
int load_copy() noexcept;
int load_counter(FloatFormat format) noexcept;
int load_digest() noexcept;

}  // namespace phi3::transfer::kernels
