// Q6_K: 256 elements, 6 bits each, in sixteen sub-blocks with a signed 8-bit scale.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q6_K {
  static constexpr std::uint32_t kTypeId = 14;
  static constexpr const char* kName = "Q6_K";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 210;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const float d = load_half<kAlign>(block + kD);
    const int scale = static_cast<std::int8_t>(load_u8(block + kScales + group / 2));
    const float dl = d * static_cast<float>(scale);
    // Each half of the block has 64 bytes of low nibbles (two elements in each byte, 64 apart) and
    // 32 bytes of high bits (four elements in each byte, 32 apart).
    const int half = group / 16;
    const int row = group % 16;
    const Octet<kAlign> low(block + kLow + 64 * half + 8 * (row % 8));
    const Octet<kAlign> high(block + kHigh + 32 * half + 8 * (row % 4));
    const int low_shift = 4 * (row / 8);
    const int high_shift = 2 * (row / 4);
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t quant = ((low[i] >> low_shift) & 0xf) | ((high[i] >> high_shift) & 3)
                                                                      << 4;
      out[i] = dl * static_cast<float>(static_cast<int>(quant) - 32);
    }
  }

 private:
  static constexpr int kLow = 0;
  static constexpr int kHigh = 128;
  static constexpr int kScales = 192;
  static constexpr int kD = 208;
};

}  // namespace phi3::transfer::decode
