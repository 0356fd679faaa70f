// The first sixteen bytes of a Q4_K or Q5_K block: two halves, then eight 6-bit scales and eight
// 6-bit minima in twelve bytes.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct ScaleAndMin {
  float scale;
  float min;
};

// Returns the factors of the 32 elements of sub-block `sub`.
template <int Align>
TRANSFER_HD ScaleAndMin load_k_scales(const std::uint8_t* block, int sub) {
  const Quad header = load_quad<Align>(block);
  const int shift = 8 * (sub & 3);
  const std::uint32_t scales = header.word[1] >> shift;
  const std::uint32_t mins = header.word[2] >> shift;
  // Sub-blocks 4 to 7 have their low four bits in the last word, with scale and minimum in one
  // byte. Their high two bits are the upper two bits in the bytes of sub-blocks 0 to 3.
  const std::uint32_t low = header.word[3] >> shift;
  const bool split = sub >= 4;
  const std::uint32_t scale = split ? (low & 0x0f) | ((scales >> 2) & 0x30) : scales & 0x3f;
  const std::uint32_t min = split ? ((low >> 4) & 0x0f) | ((mins >> 2) & 0x30) : mins & 0x3f;
  const float d = float_from_half(static_cast<half_bits>(header.word[0]));
  const float dmin = float_from_half(static_cast<half_bits>(header.word[0] >> 16));
  return {d * static_cast<float>(static_cast<int>(scale)),
          dmin * static_cast<float>(static_cast<int>(min))};
}

}  // namespace phi3::transfer::decode
