// Cuts operations into chunks of bounded size, each one contiguous read.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer/copy_op.hpp"

namespace transfer {

// A part of one operation inside a chunk. Its bytes are whole blocks of its type.
struct Segment {
  std::uint64_t chunk_offset;  // bytes from the start of the chunk
  std::uint64_t source_bytes;
  std::uint64_t dest_offset;  // bytes from the start of the destination buffer
  std::uint64_t dest_bytes;
  std::uint64_t elements;   // values to decode; bytes for kCopyBytes
  std::uint64_t op_offset;  // source bytes of its operation that come before it
  std::uint32_t op;         // index of its operation
  std::uint32_t decoder;
  std::uint32_t unit;
  FloatFormat floats;
  float scale;
};

// One contiguous source range, at most `chunk_bytes` long, and the segments it holds.
struct Chunk {
  std::uint32_t file;
  std::uint64_t source_offset;
  std::uint64_t bytes;
  std::uint32_t first_segment;
  std::uint32_t segment_count;
};

struct Schedule {
  std::vector<Chunk> chunks;
  std::vector<Segment> segments;
  std::vector<std::uint64_t> unit_bytes;  // source bytes of each unit
  std::uint64_t source_bytes = 0;
  bool converts = false;                // some chunk needs device staging
  std::vector<std::uint32_t> decoders;  // types that occur, each once
  std::vector<FloatFormat> floats;      // formats that are counted, each once

  const Segment* segments_of(const Chunk& chunk) const {
    return segments.data() + chunk.first_segment;
  }
};

// Smaller chunk sizes are raised to this: every block of every type fits, on a 32-byte boundary.
constexpr std::uint64_t kMinChunkBytes = 4096;

// Bounds the descriptors of one chunk; 4 MiB of 4 KiB tensors still fit in one.
constexpr std::uint32_t kMaxSegments = 1024;

// What operations may refer to.
struct Bounds {
  std::vector<std::uint64_t> file_bytes;
  std::uint64_t dest_bytes;
  std::uint32_t units;
};

// Proves that every operation stays inside its file and the destination, that sizes match the
// conversion and that no two operations write the same byte (readers write concurrently), then
// cuts. Neighbours in the file share a chunk, so small tensors cost no read each.
// Throws Error{kInvalidArgument} naming the operation that breaks the contract.
Schedule cut(const std::vector<CopyOp>& ops, const Bounds& bounds, std::uint64_t chunk_bytes);

// The end of the segments, from `first` on, that one copy can move: neighbours in the file that are
// neighbours at the destination, too. `first` is not `end`.
const Segment* end_of_copy(const Segment* first, const Segment* end);

// True where a chunk can be copied straight to its destination, with no staging on the device.
bool lands_directly(const Segment* segments, std::uint32_t count);

}  // namespace transfer
