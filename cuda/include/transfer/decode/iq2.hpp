// IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes at a time from a grid, and their signs.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/iq_signs.hpp"
#include "transfer/decode/iq_tables.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

// Scales eight grid elements, which have one of three magnitudes.
TRANSFER_HD void iq2_elements(float d, std::uint32_t scale, std::uint32_t grid, std::uint32_t signs,
                              float (&out)[8]) {
  constexpr std::uint32_t kMagnitudes = 0x2b1908;
  const float db = d * (0.5f + static_cast<float>(static_cast<int>(scale))) * 0.25f;
  TRANSFER_KEEP_LOOP
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t code = (grid >> (2 * i)) & 3;
    const std::uint32_t magnitude = (kMagnitudes >> (8 * code)) & 0xff;
    out[i] = apply_sign(db * static_cast<float>(static_cast<int>(magnitude)), signs, i);
  }
}

struct IQ2_XXS {
  static constexpr std::uint32_t kTypeId = 16;
  static constexpr const char* kName = "IQ2_XXS";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 66;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    // 32 elements take eight bytes: four grid indices, then four times seven signs and the scale.
    const std::uint8_t* quants = block + kQuants + 8 * (group / 4);
    const std::uint32_t index = load_u8(quants + group % 4);
    const std::uint32_t packed = load_u32<kAlign>(quants + 4);
    const std::uint32_t signs = complete_signs((packed >> (7 * (group % 4))) & 0x7f);
    iq2_elements(load_half<kAlign>(block), packed >> 28, iq2_xxs_grid(index), signs, out);
  }

 private:
  static constexpr int kQuants = 2;
};

struct IQ2_XS {
  static constexpr std::uint32_t kTypeId = 17;
  static constexpr const char* kName = "IQ2_XS";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 74;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, kQuants);
    // Nine bits of grid index, seven signs.
    const std::uint32_t packed = load_u16<kAlign>(block + kQuants + 2 * group);
    const std::uint32_t scales = load_u8(block + kScales + group / 4);
    const std::uint32_t scale = (scales >> (4 * (group / 2 & 1))) & 0xf;
    iq2_elements(load_half<kAlign>(block), scale, iq2_xs_grid(packed & 0x1ff),
                 complete_signs(packed >> 9), out);
  }

 private:
  static constexpr int kQuants = 2;
  static constexpr int kScales = 66;
};

struct IQ2_S {
  static constexpr std::uint32_t kTypeId = 22;
  static constexpr const char* kName = "IQ2_S";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 82;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t low = load_u8(block + kLow + group);
    const std::uint32_t high = load_u8(block + kHigh + group / 4) >> (2 * (group % 4));
    const std::uint32_t signs = load_u8(block + kSigns + group);
    const std::uint32_t scales = load_u8(block + kScales + group / 4);
    const std::uint32_t scale = (scales >> (4 * (group / 2 & 1))) & 0xf;
    iq2_elements(load_half<kAlign>(block), scale, iq2_s_grid(low | (high & 3) << 8), signs, out);
  }

 private:
  static constexpr int kLow = 2;
  static constexpr int kSigns = 34;
  static constexpr int kHigh = 66;
  static constexpr int kScales = 74;
};

}  // namespace phi3::transfer::decode
