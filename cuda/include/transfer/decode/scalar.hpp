// The types with one element in each word: F32, F16, BF16.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/half.hpp"

namespace phi3::transfer::decode {

struct F32 {
  static constexpr std::uint32_t kTypeId = 0;
  static constexpr const char* kName = "F32";
  static constexpr int kBlockLen = 1;
  static constexpr int kBlockBytes = 4;
  using Word = std::uint32_t;

  TRANSFER_HD static half_bits value(Word word) { return half_from_float(float_from_bits(word)); }
};

struct F16 {
  static constexpr std::uint32_t kTypeId = 1;
  static constexpr const char* kName = "F16";
  static constexpr int kBlockLen = 1;
  static constexpr int kBlockBytes = 2;
  using Word = std::uint16_t;

  TRANSFER_HD static half_bits value(Word word) { return word; }
};

struct BF16 {
  static constexpr std::uint32_t kTypeId = 30;
  static constexpr const char* kName = "BF16";
  static constexpr int kBlockLen = 1;
  static constexpr int kBlockBytes = 2;
  using Word = std::uint16_t;

  TRANSFER_HD static half_bits value(Word word) {
    return half_from_float(float_from_bits(static_cast<std::uint32_t>(word) << 16));
  }
};

}  // namespace phi3::transfer::decode
