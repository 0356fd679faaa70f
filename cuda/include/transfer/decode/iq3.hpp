// IQ3_XXS and IQ3_S: four magnitudes at a time from a grid, and their signs.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/iq_signs.hpp"
#include "transfer/decode/iq_tables.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

struct IQ3_XXS {
  static constexpr std::uint32_t kTypeId = 18;
  static constexpr const char* kName = "IQ3_XXS";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 98;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t indices = load_u16<kAlign>(block + kQuants + 2 * group);
    const std::uint32_t grid = iq3_xxs_grid(indices & 0xff) | iq3_xxs_grid(indices >> 8) << 16;
    // 32 elements share four bytes: four times seven signs and the scale.
    const std::uint32_t packed = load_u32<kAlign>(block + kSigns + 4 * (group / 4));
    const std::uint32_t signs = complete_signs((packed >> (7 * (group % 4))) & 0x7f);
    const float scale = 0.5f + static_cast<float>(static_cast<int>(packed >> 28));
    const float db = load_half<kAlign>(block) * scale * 0.5f;
    TRANSFER_KEEP_LOOP
    for (int i = 0; i < 8; ++i) {
      const int code = static_cast<int>((grid >> (4 * i)) & 7);
      // 4, 12, 20, 28, 36, 44, 52 and 62, the only one that is not 8 larger than the one before.
      const int magnitude = 4 + 8 * code + ((code + 1) >> 3) * 2;
      out[i] = apply_sign(db * static_cast<float>(magnitude), signs, i);
    }
  }

 private:
  static constexpr int kQuants = 2;
  static constexpr int kSigns = 66;
};

struct IQ3_S {
  static constexpr std::uint32_t kTypeId = 21;
  static constexpr const char* kName = "IQ3_S";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 110;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t low = load_u16<kAlign>(block + kLow + 2 * group);
    const std::uint32_t high = load_u8(block + kHigh + group / 4) >> (2 * (group % 4));
    const std::uint32_t grid =
        iq3_s_grid((low & 0xff) | (high & 1) << 8) | iq3_s_grid((low >> 8) | (high & 2) << 7) << 16;
    const std::uint32_t signs = load_u8(block + kSigns + group);
    const std::uint32_t scales = load_u8(block + kScales + group / 8);
    const int scale = static_cast<int>((scales >> (4 * (group / 4 & 1))) & 0xf);
    const float db = load_half<kAlign>(block) * static_cast<float>(1 + 2 * scale);
    TRANSFER_KEEP_LOOP
    for (int i = 0; i < 8; ++i) {
      const int magnitude = 1 + 2 * static_cast<int>((grid >> (4 * i)) & 7);
      out[i] = apply_sign(db * static_cast<float>(magnitude), signs, i);
    }
  }

 private:
  static constexpr int kLow = 2;
  static constexpr int kHigh = 66;
  static constexpr int kSigns = 74;
  static constexpr int kScales = 106;
};

}  // namespace phi3::transfer::decode
