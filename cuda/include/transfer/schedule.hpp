// Cuts operations into chunks of bounded size. Each chunk is one contiguous range of a source.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/kernel_use.hpp"
#include "transfer/segment.hpp"
#include "transfer/view.hpp"

namespace phi3::transfer {

// The segments of a chunk that go to one lane.
struct Part {
  std::uint32_t lane;
  std::uint32_t first_segment;
  std::uint32_t segment_count;
  std::uint64_t begin;  // range in the chunk; bytes of other lanes may lie between
  std::uint64_t end;
};

// The value of `Chunk::carrier` if every lane gets the chunk over its own link.
constexpr std::uint32_t kNoCarrier = UINT32_MAX;

// A contiguous source range of at most `chunk_bytes`, and the segments in it. The segments of each
// lane are adjacent.
//
// A chunk is staged as it is in the source, or it is gathered. A gathered chunk consists of rows.
// Readers write the bytes of each of its segments to a place of its own in the slot.
struct Chunk {
  std::uint32_t source;  // index into the sources of the call
  std::uint64_t source_offset;
  std::uint64_t bytes;
  std::uint64_t needed_bytes;  // bytes that a segment needs, without those of earlier chunks
  std::uint64_t row_bytes;     // 0 if the chunk is not gathered
  std::uint32_t row_step;      // a gathered chunk is divided at multiples of this number of rows
  std::uint32_t first_segment;
  std::uint32_t segment_count;
  std::uint32_t first_part;
  std::uint32_t part_count;
  // The lane over whose link the chunk goes, or kNoCarrier. All lanes of the chunk take it from the
  // carrier's device.
  std::uint32_t carrier;
};

// The work of one lane in a call.
struct LaneLoad {
  std::vector<std::uint64_t> unit_bytes;  // source bytes of each unit
  KernelUse kernels;
};

struct Schedule {
  std::vector<Chunk> chunks;
  std::vector<Part> parts;
  std::vector<Segment> segments;
  std::vector<LaneLoad> lanes;
  // For each operation, the first operation that reads the same bytes; it can be the operation
  // itself. Only the bytes of the first one are examined.
  std::vector<std::uint32_t> findings_of;
  std::uint64_t source_bytes = 0;  // bytes that several operations need count once

  View<Segment> segments_of(const Chunk& chunk) const {
    return {segments.data() + chunk.first_segment, chunk.segment_count};
  }
  View<Segment> segments_of(const Part& part) const {
    return {segments.data() + part.first_segment, part.segment_count};
  }
  View<Part> parts_of(const Chunk& chunk) const {
    return {parts.data() + chunk.first_part, chunk.part_count};
  }

  // Returns the source bytes of each unit, summed over all lanes.
  std::vector<std::uint64_t> unit_bytes() const;
};

// Smaller chunk sizes are raised to this: it holds a block of every type on a 32-byte boundary.
constexpr std::uint64_t kMinChunkBytes = 4096;

// Returns the smallest chunk size that the columns of these operations need in `cut`; 0 if there
// are none.
std::uint64_t least_chunk_bytes(View<CopyOp> ops) noexcept;

// The limits that operations are checked against.
struct Bounds {
  std::vector<std::uint64_t> source_bytes;  // one for each source
  std::vector<std::uint64_t> dest_bytes;    // one for each lane with a destination
  std::size_t lanes;                        // their number, with those that only lend their links
  std::uint32_t units;
};

// Checks every operation, then cuts. An operation must stay inside its source and its lane's
// destination, and its sizes must match the conversion. No two operations may write the same byte,
// because readers write concurrently. Neighbours in a source share a chunk, so that small tensors
// cost no read each. Consecutive operations that overlap in a source share chunks, so that each
// byte is read once. Throws Error{kInvalidArgument} with the operation that breaks a rule, or whose
// rows do not fit in a chunk.
Schedule cut(View<CopyOp> ops, const Bounds& bounds, std::uint64_t chunk_bytes);

}  // namespace phi3::transfer
