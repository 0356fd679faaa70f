// NVFP4: 64 E2M1 elements, with an unsigned E4M3 scale for every 16 of them. Files also have one
// f32 factor for each tensor.
#pragma once

#include <cstdint>

#include "transfer/decode/e2m1.hpp"
#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"
#include "transfer/half.hpp"

namespace phi3::transfer::decode {

struct NVFP4 {
  static constexpr std::uint32_t kTypeId = 40;
  static constexpr const char* kName = "NVFP4";
  static constexpr int kBlockLen = 64;
  static constexpr int kBlockBytes = 36;
  static constexpr bool kHasTensorScale = true;

  // Eight bytes hold 16 elements under one scale: the low nibbles are the first eight.
  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = half_scale(load_u8(block + (group >> 1)));
    const Octet<kAlign> quants(block + kQuants + 8 * (group >> 1));
    const int shift = 4 * (group & 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = d * static_cast<float>(doubled_e2m1(static_cast<int>(quants[i] >> shift)));
    }
  }

 private:
  static constexpr int kQuants = 4;

  // Returns half of an E4M3 number, because the elements are doubled. As in ggml, the sign bit is
  // ignored, and 0x7f, which would be NaN, gives zero. Has no branches: only then do compilers
  // vectorise a block on the host, which is 15 times as fast.
  TRANSFER_HD static float half_scale(std::uint32_t bits) {
    const std::uint32_t magnitude = (bits & 0x7f) * static_cast<std::uint32_t>(bits != 0x7f);
    const std::uint32_t is_normal = static_cast<std::uint32_t>(magnitude > 7);
    const std::uint32_t significand = (magnitude & 7) + 8 * is_normal;
    const std::uint32_t shift = (magnitude >> 3) - is_normal;
    return static_cast<float>(static_cast<int>(significand << shift)) * 0x1p-10f;
  }
};

}  // namespace phi3::transfer::decode
