// What the engine is asked to do: byte ranges and conversions, never a model's names.
#pragma once

#include <cstdint>

#include "transfer/non_finite.hpp"

namespace transfer {

// Stands in `CopyOp::decoder` for bytes that are moved as they are.
constexpr std::uint32_t kCopyBytes = UINT32_MAX;

// Every operation's destination starts on such a boundary.
constexpr std::uint64_t kDestAlignment = 16;

struct CopyOp {
  std::uint32_t file;           // index into the sources of the call
  std::uint64_t source_offset;  // bytes from the start of that file
  std::uint64_t source_bytes;
  std::uint64_t dest_offset;  // bytes from the start of the destination buffer
  std::uint64_t dest_bytes;
  std::uint32_t decoder;  // ggml type number to decode to f16, or kCopyBytes
  std::uint32_t unit;     // progress unit, from 0; a unit is done when all its bytes have landed
  FloatFormat floats;     // what the destination holds: infinities and NaNs are counted
  float scale;  // decoded values are multiplied by it; 1 for types that have no tensor scale
};

}  // namespace transfer
