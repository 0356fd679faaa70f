// Divides the reads of a schedule among readers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transfer/schedule.hpp"

namespace phi3::transfer {

// One read: a chunk, or a part of it.
struct Share {
  std::size_t chunk;
  std::uint64_t offset;  // bytes from the start of the chunk
  std::uint64_t bytes;
};

// Consecutive shares, which one reader reads in turn.
struct Stretch {
  std::size_t first;
  std::size_t count;
};

struct Division {
  std::vector<Share> shares;
  std::vector<Stretch> stretches;
  std::vector<std::uint32_t> shares_of_chunk;
  // Chunks of one run pass through one slot of the ring, one after the other. Runs are numbered
  // from 0, in the order of their chunks.
  std::vector<std::size_t> run_of_chunk;
};

struct DivisionRules {
  // Largest share of each source in bytes; rounded down to whole pages, at least one page.
  std::vector<std::uint64_t> read_bytes;
  // Preferred contiguous destination bytes per reader: a run of chunks with this many bytes
  // together, or a part of a larger chunk. If 0, every share is a stretch. Lowered if there are too
  // few bytes for all readers.
  std::uint64_t stretch_bytes;
  std::uint32_t readers;
  bool digest;  // whether shares are digested as they are read
};

Division divide(const Schedule& schedule, const DivisionRules& rules);

}  // namespace phi3::transfer
