// The progress of a call.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace phi3::transfer {

struct Progress {
  std::uint32_t units_done;  // units 0 to units_done - 1 have landed
  std::uint64_t bytes_done;  // source bytes that have landed; those of several lanes count once
  std::vector<std::uint64_t> lane_bytes;  // source bytes that have landed on each lane
};

// Called on the thread that called execute(), never concurrently. Returns false to cancel.
using Observer = std::function<bool(const Progress&)>;

}  // namespace phi3::transfer
