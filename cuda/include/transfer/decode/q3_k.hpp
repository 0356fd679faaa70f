// Q3_K: 256 elements, 3 bits each, in sixteen sub-blocks with a signed 6-bit scale.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q3_K {
  static constexpr std::uint32_t kTypeId = 11;
  static constexpr const char* kName = "Q3_K";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 110;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const float dl = load_half<kAlign>(block + kD) * static_cast<float>(scale(block, group / 2));
    // Each half of the block has 32 bytes of low bits, with four elements in each byte, 32 apart.
    const Octet<kAlign> low(block + kLow + 32 * (group / 16) + 8 * (group % 4));
    // Bit j of byte i is for element 32 * j + i. If it is clear, four is subtracted.
    const Octet<kAlign> high(block + kHigh + 8 * (group % 4));
    const int low_shift = 2 * (group % 16 / 4);
    const int high_shift = group / 4;
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t quant = ((low[i] >> low_shift) & 3) | ((high[i] >> high_shift) & 1) << 2;
      out[i] = dl * static_cast<float>(static_cast<int>(quant) - 4);
    }
  }

 private:
  static constexpr int kHigh = 0;
  static constexpr int kLow = 32;
  static constexpr int kScales = 96;
  static constexpr int kD = 108;

  // The low nibbles are in bytes 0 to 7; sub-blocks s and s + 8 share a byte. The high two bits are
  // in bytes 8 to 11; sub-blocks that are 4 apart share a byte.
  TRANSFER_HD static int scale(const std::uint8_t* block, int sub) {
    const std::uint32_t low = load_u8(block + kScales + sub % 8) >> (4 * (sub / 8));
    const std::uint32_t high = load_u8(block + kScales + 8 + sub % 4) >> (2 * (sub / 4));
    return static_cast<int>((low & 0xf) | (high & 3) << 4) - 32;
  }
};

}  // namespace phi3::transfer::decode
