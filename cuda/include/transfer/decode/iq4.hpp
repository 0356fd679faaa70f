// IQ4_NL and IQ4_XS: 4-bit indices into a codebook of sixteen unevenly spaced values.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

TRANSFER_HD float iq4_value(std::uint32_t index) {
  static constexpr float kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};
  return kValues[index];
}

struct IQ4_NL {
  static constexpr std::uint32_t kTypeId = 20;
  static constexpr const char* kName = "IQ4_NL";
  static constexpr int kBlockLen = 32;
  static constexpr int kBlockBytes = 18;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    const float d = load_half<kAlign>(block);
    const Octet<kAlign> quants(block + kQuants + 8 * (group & 1));
    const int shift = 4 * (group >> 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = d * iq4_value((quants[i] >> shift) & 0xf);
    }
  }

 private:
  static constexpr int kQuants = 2;
};

// 256 elements in eight sub-blocks with a signed 6-bit scale.
struct IQ4_XS {
  static constexpr std::uint32_t kTypeId = 23;
  static constexpr const char* kName = "IQ4_XS";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 136;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t header = load_u32<kAlign>(block);
    const float d = float_from_half(static_cast<half_bits>(header));
    const int sub = group / 4;
    const std::uint32_t low = load_u8(block + kScalesLow + sub / 2) >> (4 * (sub & 1));
    const std::uint32_t high = (header >> 16) >> (2 * sub);
    const int scale = static_cast<int>((low & 0xf) | (high & 3) << 4) - 32;
    const float dl = d * static_cast<float>(scale);
    const Octet<kAlign> quants(block + kQuants + 16 * sub + 8 * (group & 1));
    const int shift = 4 * (group >> 1 & 1);
    for (int i = 0; i < 8; ++i) {
      out[i] = dl * iq4_value((quants[i] >> shift) & 0xf);
    }
  }

 private:
  static constexpr int kScalesLow = 4;
  static constexpr int kQuants = 8;
};

}  // namespace phi3::transfer::decode
