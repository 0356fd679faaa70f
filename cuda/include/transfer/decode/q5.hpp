// Q5_0 and Q5_1: Q4_0 and Q4_1 with a fifth bit for every element.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q5_0 {
  static constexpr std::uint32_t kTypeId = 6;
  static constexpr const char* kName = "Q5_0";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 22;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kLow);
    const float d = load_half<kAlign>(block);
    const std::uint32_t high = load_u8(block + kHigh + group);
    const Octet<kAlign> low(block + kLow + 8 * (group & 1));
    const int shift = 4 * (group >> 1);
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t quant = ((low[i] >> shift) & 0xf) | ((high >> i) & 1) << 4;
      out[i] = d * static_cast<float>(static_cast<int>(quant) - 16);
    }
  }

 private:
  static constexpr int kHigh = 2;
  static constexpr int kLow = 6;
};

struct Q5_1 {
  static constexpr std::uint32_t kTypeId = 7;
  static constexpr const char* kName = "Q5_1";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 24;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kLow);
    const std::uint32_t header = load_u32<kAlign>(block);
    const float d = float_from_half(static_cast<half_bits>(header));
    const float m = float_from_half(static_cast<half_bits>(header >> 16));
    const std::uint32_t high = load_u8(block + kHigh + group);
    const Octet<kAlign> low(block + kLow + 8 * (group & 1));
    const int shift = 4 * (group >> 1);
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t quant = ((low[i] >> shift) & 0xf) | ((high >> i) & 1) << 4;
      out[i] = d * static_cast<float>(static_cast<int>(quant)) + m;
    }
  }

 private:
  static constexpr int kHigh = 4;
  static constexpr int kLow = 8;
};

}  // namespace phi3::transfer::decode
