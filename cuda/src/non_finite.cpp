#include "transfer/non_finite.hpp"

#include <algorithm>

// Not with ThreadSanitizer: the function that chooses a clone would run before the sanitizer has
// started.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define TRANSFER_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define TRANSFER_VECTOR_CLONES
#endif

namespace phi3::transfer {
namespace {

template <class Word>
Word magnitude_of(Word word) {
  return word & static_cast<Word>(static_cast<Word>(~Word{0}) >> 1);
}

// Has no branches, so that it is vectorised.
template <class Word>
inline __attribute__((always_inline)) Word largest_of(const Word* words, std::uint64_t count) {
  Word largest = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const Word magnitude = magnitude_of(words[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// Returns the largest integer among the floats' bits without the sign. There is one function for
// each size, because templates cannot be cloned.
TRANSFER_VECTOR_CLONES std::uint16_t largest(const std::uint16_t* words, std::uint64_t count) {
  return largest_of(words, count);
}
TRANSFER_VECTOR_CLONES std::uint32_t largest(const std::uint32_t* words, std::uint64_t count) {
  return largest_of(words, count);
}
TRANSFER_VECTOR_CLONES std::uint64_t largest(const std::uint64_t* words, std::uint64_t count) {
  return largest_of(words, count);
}

template <FloatFormat kFormat>
NonFinite count_as(const std::byte* data, std::uint64_t count) noexcept {
  using Bits = FloatBits<kFormat>;
  // Nearly all runs have none. This check is much cheaper than counting.
  constexpr std::uint64_t kRun = 8192 / sizeof(typename Bits::Word);
  const auto* words = reinterpret_cast<const typename Bits::Word*>(data);
  NonFinite found{0, 0};
  for (std::uint64_t start = 0; start < count; start += kRun) {
    const std::uint64_t length = std::min(kRun, count - start);
    if (largest(words + start, length) < Bits::kInfinity) continue;
    for (std::uint64_t i = start; i < start + length; ++i) {
      const auto magnitude = magnitude_of(words[i]);
      found.infinite += magnitude == Bits::kInfinity;
      found.nan += magnitude > Bits::kInfinity;
    }
  }
  return found;
}

}  // namespace

NonFinite count_non_finite(FloatFormat format, const std::byte* data,
                           std::uint64_t count) noexcept {
  switch (format) {
    case FloatFormat::kNone:
      break;
    case FloatFormat::kF16:
      return count_as<FloatFormat::kF16>(data, count);
    case FloatFormat::kBf16:
      return count_as<FloatFormat::kBf16>(data, count);
    case FloatFormat::kF32:
      return count_as<FloatFormat::kF32>(data, count);
    case FloatFormat::kF64:
      return count_as<FloatFormat::kF64>(data, count);
  }
  return {0, 0};
}

}  // namespace phi3::transfer
