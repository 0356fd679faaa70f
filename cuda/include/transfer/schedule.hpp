// Cuts operations into chunks of bounded size, each one contiguous read.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/segment.hpp"
#include "transfer/view.hpp"

namespace transfer {

// The segments of a chunk that go to one lane.
struct Part {
  std::uint32_t lane;
  std::uint32_t first_segment;
  std::uint32_t segment_count;
  std::uint64_t begin;  // its bytes in the chunk, from the start of it; other lanes' may be between
  std::uint64_t end;
};

// One contiguous source range, at most `chunk_bytes` long, and the segments it holds, those of each
// lane together.
struct Chunk {
  std::uint32_t file;
  std::uint64_t source_offset;
  std::uint64_t bytes;
  std::uint32_t first_segment;
  std::uint32_t segment_count;
  std::uint32_t first_part;
  std::uint32_t part_count;
};

// What a call brings to one lane.
struct LaneLoad {
  std::vector<std::uint64_t> unit_bytes;  // source bytes of each unit
  KernelUse kernels;
};

struct Schedule {
  std::vector<Chunk> chunks;
  std::vector<Part> parts;
  std::vector<Segment> segments;
  std::vector<LaneLoad> lanes;
  std::uint64_t source_bytes = 0;

  View<Segment> segments_of(const Chunk& chunk) const {
    return {segments.data() + chunk.first_segment, chunk.segment_count};
  }
  View<Segment> segments_of(const Part& part) const {
    return {segments.data() + part.first_segment, part.segment_count};
  }
  View<Part> parts_of(const Chunk& chunk) const {
    return {parts.data() + chunk.first_part, chunk.part_count};
  }

  // Source bytes of each unit, of all lanes.
  std::vector<std::uint64_t> unit_bytes() const;
};

// Smaller chunk sizes are raised to this: every block of every type fits, on a 32-byte boundary.
constexpr std::uint64_t kMinChunkBytes = 4096;

// What operations may refer to.
struct Bounds {
  std::vector<std::uint64_t> file_bytes;
  std::vector<std::uint64_t> dest_bytes;  // of each lane
  std::uint32_t units;
};

// Proves that every operation stays inside its file and its lane's destination, that sizes match
// the conversion and that no two operations write the same byte (readers write concurrently), then
// cuts. Neighbours in the file share a chunk, so small tensors cost no read each.
// Throws Error{kInvalidArgument} naming the operation that breaks the contract.
Schedule cut(View<CopyOp> ops, const Bounds& bounds, std::uint64_t chunk_bytes);

}  // namespace transfer
