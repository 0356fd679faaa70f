// Loads from packed blocks, as wide as the alignment that is known at compile time allows.
//
// On the host, a block may start anywhere. On the device, a segment starts on a 16-byte boundary.
// Thus a block is aligned to the largest power of two, at most 16, that divides its size.
#pragma once

#include <cstdint>
#include <cstring>

#include "transfer/decode/host_device.hpp"
#include "transfer/half.hpp"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the blocks are little endian and are read as they are"
#endif

namespace phi3::transfer::decode {

// Returns the alignment of a field at `offset` in blocks of `block_bytes`.
TRANSFER_HD constexpr int field_alignment(int block_bytes, int offset) {
  const int bits = block_bytes | offset | 16;
  return bits & -bits;
}

TRANSFER_HD std::uint32_t load_u8(const std::uint8_t* p) {
#if defined(__CUDA_ARCH__)
  return __ldg(p);
#else
  return *p;
#endif
}

template <int Align>
TRANSFER_HD std::uint32_t load_u16(const std::uint8_t* p) {
#if defined(__CUDA_ARCH__)
  if constexpr (Align >= 2) {
    return __ldg(reinterpret_cast<const std::uint16_t*>(p));
  } else {
    return load_u8(p) | load_u8(p + 1) << 8;
  }
#else
  std::uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
#endif
}

template <int Align>
TRANSFER_HD std::uint32_t load_u32(const std::uint8_t* p) {
#if defined(__CUDA_ARCH__)
  if constexpr (Align >= 4) {
    return __ldg(reinterpret_cast<const std::uint32_t*>(p));
  } else {
    return load_u16<Align>(p) | load_u16<Align>(p + 2) << 16;
  }
#else
  std::uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
#endif
}

template <int Align>
TRANSFER_HD float load_half(const std::uint8_t* p) {
  return float_from_half(static_cast<half_bits>(load_u16<Align>(p)));
}

// Eight consecutive bytes of a block. The host reads them in place, which compilers can vectorise.
// The device loads them once into two registers.
template <int Align>
class Octet {
 public:
#if defined(__CUDA_ARCH__)
  TRANSFER_HD explicit Octet(const std::uint8_t* p) {
    if constexpr (Align >= 8) {
      const uint2 words = __ldg(reinterpret_cast<const uint2*>(p));
      low_ = words.x;
      high_ = words.y;
    } else {
      low_ = load_u32<Align>(p);
      high_ = load_u32<Align>(p + 4);
    }
  }
  TRANSFER_HD std::uint32_t operator[](int i) const {
    return ((i < 4 ? low_ : high_) >> (8 * (i & 3))) & 0xffu;
  }

 private:
  std::uint32_t low_;
  std::uint32_t high_;
#else
  TRANSFER_HD explicit Octet(const std::uint8_t* p) : bytes_(p) {}
  TRANSFER_HD std::uint32_t operator[](int i) const { return bytes_[i]; }

 private:
  const std::uint8_t* bytes_;
#endif
};

// Four consecutive little-endian words of a block.
struct Quad {
  std::uint32_t word[4];
};

template <int Align>
TRANSFER_HD Quad load_quad(const std::uint8_t* p) {
#if defined(__CUDA_ARCH__)
  if constexpr (Align >= 16) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(p));
    return {{words.x, words.y, words.z, words.w}};
  }
#endif
  return {{load_u32<Align>(p), load_u32<Align>(p + 4), load_u32<Align>(p + 8),
           load_u32<Align>(p + 12)}};
}

}  // namespace phi3::transfer::decode
