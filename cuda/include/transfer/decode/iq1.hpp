// IQ1_S and IQ1_M: eight ternary values at a time from a grid, all shifted by 1/8 up or down.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/iq_tables.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

TRANSFER_HD void iq1_elements(float dl, std::uint32_t grid, bool shift_down, float (&out)[8]) {
  const float delta = shift_down ? -0.125f : 0.125f;
  TRANSFER_KEEP_LOOP
  for (int i = 0; i < 8; ++i) {
    const int value = static_cast<int>((grid >> (2 * i)) & 3) - 1;
    out[i] = dl * (static_cast<float>(value) + delta);
  }
}

struct IQ1_S {
  static constexpr std::uint32_t kTypeId = 19;
  static constexpr const char* kName = "IQ1_S";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 50;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t low = load_u8(block + kLow + group);
    // For 32 elements: four times three bits of grid index, the scale, the direction of the shift.
    const std::uint32_t high = load_u16<kAlign>(block + kHigh + 2 * (group / 4));
    const std::uint32_t index = low | ((high >> (3 * (group % 4))) & 7) << 8;
    const int scale = static_cast<int>((high >> 12) & 7);
    const float dl = load_half<kAlign>(block) * static_cast<float>(2 * scale + 1);
    iq1_elements(dl, iq1_grid(index), (high & 0x8000) != 0, out);
  }

 private:
  static constexpr int kLow = 2;
  static constexpr int kHigh = 34;
};

struct IQ1_M {
  static constexpr std::uint32_t kTypeId = 29;
  static constexpr const char* kName = "IQ1_M";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 56;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const std::uint32_t low = load_u8(block + kLow + group);
    const std::uint32_t high = load_u8(block + kHigh + group / 2) >> (4 * (group & 1));
    // Four words, each with four 3-bit scales and, in its upper four bits, a quarter of the bits of
    // d.
    const std::uint32_t scales01 = load_u32<kAlign>(block + kScales);
    const std::uint32_t scales23 = load_u32<kAlign>(block + kScales + 4);
    const std::uint32_t d = (scales01 >> 12 & 0x000f) | (scales01 >> 24 & 0x00f0) |
                            (scales23 >> 4 & 0x0f00) | (scales23 >> 16 & 0xf000);
    const int sub = group / 2;
    const std::uint32_t scales = (sub < 8 ? scales01 : scales23) >> (16 * (sub / 4 & 1));
    const int scale = static_cast<int>((scales >> (3 * (sub % 4))) & 7);
    const float dl = float_from_half(static_cast<half_bits>(d)) * static_cast<float>(2 * scale + 1);
    iq1_elements(dl, iq1_grid(low | (high & 7) << 8), (high & 8) != 0, out);
  }

 private:
  static constexpr int kLow = 0;
  static constexpr int kHigh = 32;
  static constexpr int kScales = 48;
};

}  // namespace phi3::transfer::decode
