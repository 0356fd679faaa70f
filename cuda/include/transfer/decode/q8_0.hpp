// Q8_0: 32 signed bytes and a scale.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct Q8_0 {
  static constexpr std::uint32_t kTypeId = 8;
  static constexpr const char* kName = "Q8_0";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 34;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = load_half<kAlign>(block);
    const Octet<kAlign> quants(block + kQuants + 8 * group);
    for (int i = 0; i < 8; ++i) {
      out[i] = static_cast<float>(static_cast<std::int8_t>(quants[i])) * d;
    }
  }

 private:
  static constexpr int kQuants = 2;
};

}  // namespace phi3::transfer::decode
