#include "transfer/non_finite.hpp"

#include <algorithm>

// Under ThreadSanitizer, what chooses a clone would run before the sanitizer has started.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define TRANSFER_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define TRANSFER_VECTOR_CLONES
#endif

namespace transfer {
namespace {

constexpr std::uint16_t kMagnitude = 0x7fff;
constexpr std::uint16_t kInfinity = 0x7c00;

// Whether any of `count` halves is infinite or NaN. Branch-free, so that it is vectorised.
TRANSFER_VECTOR_CLONES bool any_non_finite(const std::uint16_t* halves, std::uint64_t count) {
  std::uint16_t largest = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint16_t magnitude = halves[i] & kMagnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest >= kInfinity;
}

}  // namespace

NonFinite count_non_finite(const std::uint16_t* halves, std::uint64_t count) noexcept {
  // Nearly every run is clean, and telling so is much cheaper than counting.
  constexpr std::uint64_t kRun = 4096;
  NonFinite found{0, 0};
  for (std::uint64_t start = 0; start < count; start += kRun) {
    const std::uint64_t length = std::min(kRun, count - start);
    if (!any_non_finite(halves + start, length)) continue;
    for (std::uint64_t i = start; i < start + length; ++i) {
      const std::uint16_t magnitude = halves[i] & kMagnitude;
      found.infinite += magnitude == kInfinity;
      found.nan += magnitude > kInfinity;
    }
  }
  return found;
}

}  // namespace transfer
