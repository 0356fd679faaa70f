// IEEE binary16 as bits, with conversions that give the same bits on every host and device.
#pragma once

#include <cstdint>
#include <cstring>

#include "transfer/decode/host_device.hpp"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace phi3::transfer {

using half_bits = std::uint16_t;

// Every NaN that arithmetic produces is stored as this value. IEEE leaves its sign and payload
// open, and x86, Arm and NVIDIA differ.
inline constexpr half_bits kCanonicalNan = 0x7e00;

TRANSFER_HD float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

TRANSFER_HD std::uint32_t bits_from_float(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Is exact for every half, subnormals included.
TRANSFER_HD float float_from_half(half_bits half) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(half));
#else
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  // The multiplication rebiases the exponent. It preserves infinity and NaN.
  const float normal = float_from_bits((magnitude << 13) + 0x70000000u) * 0x1p-112f;
  // A subnormal is its significand in units of 2^-24, which are also the units of the significand
  // of 0.5.
  const float subnormal = float_from_bits(magnitude | 0x3f000000u) - 0.5f;
  return float_from_bits(sign | bits_from_float(magnitude < 0x0400u ? subnormal : normal));
#endif
}

namespace detail {

// Selects one of two integers. The host uses masks: compilers turn conditions into branches around
// the floating-point work of one side, and then cannot vectorise.
TRANSFER_HD std::int32_t select(bool condition, std::int32_t yes, std::int32_t no) {
#if defined(__CUDA_ARCH__)
  return condition ? yes : no;
#else
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return (yes & mask) | (no & ~mask);
#endif
}

// Returns the bits of |value| as a signed integer, because SSE2 has no unsigned comparisons.
TRANSFER_HD std::int32_t magnitude_bits(float value) {
  return static_cast<std::int32_t>(bits_from_float(value) & 0x7fffffffu);
}

inline constexpr std::int32_t kInfinity = 0x7f800000;

// Rounds a float that is not NaN to the nearest half, ties to even, overflow to infinity.
TRANSFER_HD std::int32_t round_to_half(float value) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(value));
#else
  const std::int32_t magnitude = magnitude_bits(value);
  // Normal: rebias the exponent. Then add enough to carry into bit 13 if the lower bits are more
  // than half, or exactly half and bit 13 is odd.
  const std::int32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Subnormal: adding 0.5 makes the adder round at 2^-24, the unit of a half's subnormals.
  const float sum = float_from_bits(static_cast<std::uint32_t>(magnitude)) + 0.5f;
  const std::int32_t subnormal = magnitude_bits(sum) - 0x3f000000;
  const std::int32_t finite = select(magnitude < 0x38800000, subnormal, normal);
  const std::int32_t sign = static_cast<std::int32_t>((bits_from_float(value) >> 16) & 0x8000u);
  return select(magnitude < 0x47800000, finite, 0x7c00) | sign;
#endif
}

}  // namespace detail

// For values that were stored as floats. A NaN becomes quiet and keeps its sign and the upper bits
// of its payload, as in numpy and in the x86 conversion instructions.
TRANSFER_HD half_bits half_from_float(float value) {
  const std::uint32_t bits = bits_from_float(value);
  const std::uint32_t quieted = ((bits >> 16) & 0x8000u) | 0x7e00u | ((bits >> 13) & 0x03ffu);
  const bool is_nan = detail::magnitude_bits(value) > detail::kInfinity;
  return static_cast<half_bits>(
      detail::select(is_nan, static_cast<std::int32_t>(quieted), detail::round_to_half(value)));
}

// For values that were computed. Every NaN becomes the canonical one.
TRANSFER_HD half_bits half_from_computed(float value) {
  const bool is_nan = detail::magnitude_bits(value) > detail::kInfinity;
  return static_cast<half_bits>(
      detail::select(is_nan, kCanonicalNan, detail::round_to_half(value)));
}

}  // namespace phi3::transfer
