// The parts of operations that devices receive.
#pragma once

#include <cstdint>

#include "transfer/crop.hpp"
#include "transfer/non_finite.hpp"

namespace phi3::transfer {

// The value of `Segment::decoder` for bytes that are copied unchanged.
constexpr std::uint32_t kCopyBytes = UINT32_MAX;

// Every segment's destination starts on a multiple of this.
constexpr std::uint64_t kDestAlignment = 16;

// A lane's part of a chunk begins on a multiple of this, so that its bytes are as aligned for
// kernels as the chunk's.
constexpr std::uint64_t kPartAlignment = 16;

// The largest number of segments in a chunk: 4 MiB of 4 KiB tensors still fit in one.
constexpr std::uint32_t kMaxSegments = 1024;

// A part of one operation inside a chunk. Its bytes are whole blocks of its type.
struct Segment {
  std::uint64_t chunk_offset;  // bytes from the start of the chunk as it is staged
  std::uint64_t source_bytes;
  std::uint64_t dest_offset;  // bytes from the start of the lane's destination buffer
  std::uint64_t dest_bytes;
  std::uint64_t elements;   // values to decode; bytes for kCopyBytes
  std::uint64_t op_offset;  // source bytes of its operation before it
  std::uint32_t op;         // index of its operation
  std::uint32_t lane;       // index of its destination
  std::uint32_t decoder;    // ggml type number to decode to f16, or kCopyBytes
  std::uint32_t unit;
  FloatFormat floats;
  float scale;
  Crop crop;
  // In a gathered chunk: the bytes that the segment takes of each row. In the staged chunk, they
  // lie one after the other.
  std::uint64_t row_begin;
  std::uint64_t row_bytes;
};

// Returns the end of the segments, from `first` on, that one copy can move: neighbours in the file
// that are also neighbours at the destination. `first` is not `end`. All segments are of one lane.
const Segment* end_of_copy(const Segment* first, const Segment* end);

// Whether segments of one lane can be copied directly to their destination, without staging on the
// device.
bool lands_directly(const Segment* segments, std::uint32_t count);

}  // namespace phi3::transfer
