// Q1_0: 128 elements of one bit, each the scale or its negative.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q1_0 {
  static constexpr std::uint32_t kTypeId = 41;
  static constexpr const char* kName = "Q1_0";
  static constexpr int kBlockLen = 128;
  static constexpr int kBlockBytes = 18;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = load_half<kAlign>(block);
    const std::uint32_t bits = load_u8(block + kQuants + group);
    TRANSFER_KEEP_LOOP
    for (int i = 0; i < 8; ++i) {
      out[i] = (bits >> i & 1) != 0 ? d : -d;
    }
  }

 private:
  static constexpr int kQuants = 2;
};

}  // namespace phi3::transfer::decode
