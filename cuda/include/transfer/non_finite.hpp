// Counts halves that are no finite number: weights that nobody meant to have.
#pragma once

#include <cstdint>

namespace transfer {

struct NonFinite {
  std::uint64_t infinite;
  std::uint64_t nan;
};

NonFinite count_non_finite(const std::uint16_t* halves, std::uint64_t count) noexcept;

}  // namespace transfer
