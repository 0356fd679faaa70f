// Q2_K: 256 elements, 2 bits each, in sixteen sub-blocks with a 4-bit scale and a 4-bit minimum.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q2_K {
  static constexpr std::uint32_t kTypeId = 10;
  static constexpr const char* kName = "Q2_K";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 84;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t factors = load_u32<kAlign>(block + kD);
    const float d = float_from_half(static_cast<half_bits>(factors));
    const float dmin = float_from_half(static_cast<half_bits>(factors >> 16));
    const std::uint32_t packed = load_u8(block + kScales + group / 2);
    const float dl = d * static_cast<float>(static_cast<int>(packed & 0xf));
    const float ml = dmin * static_cast<float>(static_cast<int>(packed >> 4));
    // Byte i of a half (128 elements) holds elements i, i + 32, i + 64 and i + 96.
    const Octet<kAlign> quants(block + kQuants + 32 * (group / 16) + 8 * (group % 4));
    const int shift = 2 * (group % 16 / 4);
    for (int i = 0; i < 8; ++i) {
      out[i] = dl * static_cast<float>(static_cast<int>((quants[i] >> shift) & 3)) - ml;
    }
  }

 private:
  static constexpr int kScales = 0;
  static constexpr int kQuants = 16;
  static constexpr int kD = 80;
};

}  // namespace phi3::transfer::decode
