// Rounds a number to a multiple. The result must fit in 64 bits.
#pragma once

#include <cstdint>

namespace phi3::transfer {

constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t to) noexcept {
  return value / to * to;
}

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) noexcept {
  return round_down(value + to - 1, to);
}

}  // namespace phi3::transfer
