// What a call's caller hears while it runs.
#pragma once

#include <cstdint>
#include <functional>

namespace transfer {

struct Progress {
  std::uint32_t units_done;  // units 0..units_done have landed, in order
  std::uint64_t bytes_done;  // source bytes that have landed
};

// Called on the thread that called execute(), never concurrently; returns false to cancel.
using Observer = std::function<bool(const Progress&)>;

}  // namespace transfer
