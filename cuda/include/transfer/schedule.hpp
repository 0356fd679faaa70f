// Cuts operations into chunks of bounded size, each one contiguous read.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/segment.hpp"
#include "transfer/view.hpp"

namespace transfer {

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
  KernelUse kernels;

  const Segment* segments_of(const Chunk& chunk) const {
    return segments.data() + chunk.first_segment;
  }
};

// Smaller chunk sizes are raised to this: every block of every type fits, on a 32-byte boundary.
constexpr std::uint64_t kMinChunkBytes = 4096;

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
Schedule cut(View<CopyOp> ops, const Bounds& bounds, std::uint64_t chunk_bytes);

}  // namespace transfer
