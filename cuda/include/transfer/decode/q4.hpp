// Q4_0 and Q4_1: 32 elements, 4 bits each. The low nibbles are elements 0 to 15, the high ones 16
// to 31.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q4_0 {
  static constexpr std::uint32_t kTypeId = 2;
  static constexpr const char* kName = "Q4_0";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 18;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = load_half<kAlign>(block);
    const Octet<kAlign> quants(block + kQuants + 8 * (group & 1));
    const int shift = 4 * (group >> 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = d * static_cast<float>(static_cast<int>((quants[i] >> shift) & 0xf) - 8);
    }
  }

 private:
  static constexpr int kQuants = 2;
};

struct Q4_1 {
  static constexpr std::uint32_t kTypeId = 3;
  static constexpr const char* kName = "Q4_1";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 20;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const std::uint32_t header = load_u32<kAlign>(block);
    const float d = float_from_half(static_cast<half_bits>(header));
    const float m = float_from_half(static_cast<half_bits>(header >> 16));
    const Octet<kAlign> quants(block + kQuants + 8 * (group & 1));
    const int shift = 4 * (group >> 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = d * static_cast<float>(static_cast<int>((quants[i] >> shift) & 0xf)) + m;
    }
  }

 private:
  static constexpr int kQuants = 4;
};

}  // namespace phi3::transfer::decode
