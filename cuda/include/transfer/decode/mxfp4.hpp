// MXFP4 of the OCP microscaling formats: 32 E2M1 elements under one E8M0 exponent.
#pragma once

#include <cstdint>

#include "transfer/decode/e2m1.hpp"
#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"
#include "transfer/half.hpp"

namespace phi3::transfer::decode {

struct MXFP4 {
  static constexpr std::uint32_t kTypeId = 39;
  static constexpr const char* kName = "MXFP4";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 17;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = half_scale(load_u8(block));
    const Octet<kAlign> quants(block + kQuants + 8 * (group & 1));
    const int shift = 4 * (group >> 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = d * static_cast<float>(doubled_e2m1(static_cast<int>(quants[i] >> shift)));
    }
  }

 private:
  static constexpr int kQuants = 1;

  // Returns half the scale, 2^(exponent - 128), because the elements are doubled to be integers.
  TRANSFER_HD static float half_scale(std::uint32_t exponent) {
    return float_from_bits(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
  }
};

}  // namespace phi3::transfer::decode
