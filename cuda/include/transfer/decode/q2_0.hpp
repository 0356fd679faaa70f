// Q2_0: 64 elements of two bits, each -1, 0, 1 or 2 times one scale.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q2_0 {
  static constexpr std::uint32_t kTypeId = 42;
  static constexpr const char* kName = "Q2_0";
  static constexpr int kBlockLen = 64;
  static constexpr int kBlockBytes = 18;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = load_half<kAlign>(block);
    const std::uint32_t bits = load_u16<kAlign>(block + kQuants + 2 * group);
    TRANSFER_KEEP_LOOP
    for (int i = 0; i < 8; ++i) {
      out[i] = d * static_cast<float>(static_cast<int>(bits >> (2 * i) & 3) - 1);
    }
  }

 private:
  static constexpr int kQuants = 2;
};

}  // namespace phi3::transfer::decode
