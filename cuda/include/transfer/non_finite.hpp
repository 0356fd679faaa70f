// Counts floats that are infinite or NaN. No model should have such weights.
#pragma once

#include <cstddef>
#include <cstdint>

namespace phi3::transfer {

// A format of floats. Stable numbers, which the Rust side sends.
enum class FloatFormat : std::uint32_t { kNone = 0, kF16 = 1, kBf16 = 2, kF32 = 3, kF64 = 4 };
constexpr std::uint32_t kFloatFormats = 5;

// The unsigned integer type of a float's bits, and the bits of positive infinity. Without the sign
// bit, a NaN is a larger integer.
template <FloatFormat kFormat>
struct FloatBits;
template <>
struct FloatBits<FloatFormat::kF16> {
  using Word = std::uint16_t;
  static constexpr Word kInfinity = 0x7c00;
};
template <>
struct FloatBits<FloatFormat::kBf16> {
  using Word = std::uint16_t;
  static constexpr Word kInfinity = 0x7f80;
};
template <>
struct FloatBits<FloatFormat::kF32> {
  using Word = std::uint32_t;
  static constexpr Word kInfinity = 0x7f800000;
};
template <>
struct FloatBits<FloatFormat::kF64> {
  using Word = std::uint64_t;
  static constexpr Word kInfinity = 0x7ff0000000000000;
};

// Returns the bytes of one float; 1 for kNone.
constexpr std::uint64_t float_bytes(FloatFormat format) {
  switch (format) {
    case FloatFormat::kNone:
      return 1;
    case FloatFormat::kF16:
    case FloatFormat::kBf16:
      return 2;
    case FloatFormat::kF32:
      return 4;
    case FloatFormat::kF64:
      return 8;
  }
  return 1;
}

struct NonFinite {
  std::uint64_t infinite;
  std::uint64_t nan;
};

// Counts infinities and NaNs among `count` floats at `data`, which is aligned to the size of a
// float. Returns zeros for kNone.
NonFinite count_non_finite(FloatFormat format, const std::byte* data, std::uint64_t count) noexcept;

}  // namespace phi3::transfer
