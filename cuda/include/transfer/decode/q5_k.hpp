// Q5_K: Q4_K with a fifth bit for every element.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/k_scales.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q5_K {
  static constexpr std::uint32_t kTypeId = 13;
  static constexpr const char* kName = "Q5_K";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 176;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const int sub = group / 4;
    const ScaleAndMin k = load_k_scales<kAlign>(block, sub);
    const Octet<8> low(block + kLow + 32 * (sub / 2) + 8 * (group % 4));
    // Bit `sub` of byte j is the fifth bit of element j of sub-block `sub`.
    const Octet<8> high(block + kHigh + 8 * (group % 4));
    const int shift = 4 * (sub & 1);
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t quant = ((low[i] >> shift) & 0xf) | ((high[i] >> sub) & 1) << 4;
      out[i] = k.scale * static_cast<float>(static_cast<int>(quant)) - k.min;
    }
  }

 private:
  static constexpr int kHigh = 16;
  static constexpr int kLow = 48;
};

}  // namespace phi3::transfer::decode
