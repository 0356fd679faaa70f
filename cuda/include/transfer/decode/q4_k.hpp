// Q4_K: 256 elements, 4 bits each, in eight sub-blocks with a scale and a minimum.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/k_scales.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q4_K {
  static constexpr std::uint32_t kTypeId = 12;
  static constexpr const char* kName = "Q4_K";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 144;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const int sub = group / 4;
    const ScaleAndMin k = load_k_scales<kAlign>(block, sub);
    // Two sub-blocks share 32 bytes: low nibbles, then high nibbles.
    const Octet<8> quants(block + kQuants + 32 * (sub / 2) + 8 * (group % 4));
    const int shift = 4 * (sub & 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = k.scale * static_cast<float>(static_cast<int>((quants[i] >> shift) & 0xf)) - k.min;
    }
  }

 private:
  static constexpr int kQuants = 16;
};

}  // namespace phi3::transfer::decode
