// TQ1_0 and TQ2_0: 256 elements, each -1, 0 or 1 times one scale.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/decode/load.hpp"

namespace phi3::transfer::decode {

// Each byte holds five trits, as the fraction of 256 that they make in base 3. The last four of the
// 52 bytes hold four trits each.
struct TQ1_0 {
  static constexpr std::uint32_t kTypeId = 34;
  static constexpr const char* kName = "TQ1_0";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 54;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const float d = load_half<kAlign>(block + kD);
    // The bytes form three groups: 0 to 31, 32 to 47 and 48 to 51. The elements of a group are the
    // first trits of all its bytes, then the second trits, and so on.
    int first = 8 * (group % 4);
    int last = first + 4;
    int first_digit = group / 4;
    int last_digit = first_digit;
    if (group >= 30) {
      first = last = 48;
      first_digit = 2 * (group - 30);
      last_digit = first_digit + 1;
    } else if (group >= 20) {
      first = 32 + 8 * (group % 2);
      last = first + 4;
      first_digit = last_digit = (group - 20) / 2;
    }
    const std::uint32_t first_bytes = load_u32<kAlign>(block + first);
    const std::uint32_t last_bytes = load_u32<kAlign>(block + last);
    const std::uint32_t first_power = power_of_three(first_digit);
    const std::uint32_t last_power = power_of_three(last_digit);
    for (int i = 0; i < 4; ++i) {
      out[i] = d * static_cast<float>(trit(first_bytes >> (8 * i), first_power));
      out[i + 4] = d * static_cast<float>(trit(last_bytes >> (8 * i), last_power));
    }
  }

 private:
  static constexpr int kD = 52;

  TRANSFER_HD static std::uint32_t power_of_three(int exponent) {
    return exponent == 4 ? 81u : (0x1b090301u >> (8 * exponent)) & 0xffu;
  }

  // The first multiplication shifts the digits before the wanted one out of the byte. The second
  // one moves the wanted digit above the byte.
  TRANSFER_HD static int trit(std::uint32_t byte, std::uint32_t power) {
    const std::uint32_t fraction = (byte * power) & 0xffu;
    return static_cast<int>((fraction * 3) >> 8) - 1;
  }
};

struct TQ2_0 {
  static constexpr std::uint32_t kTypeId = 35;
  static constexpr const char* kName = "TQ2_0";
  static constexpr int kBlockLen = 256;
  static constexpr int kBlockBytes = 66;

  TRANSFER_HD static void decode8(const std::uint8_t* block, int group, float (&out)[8]) {
    constexpr int kAlign = field_alignment(kBlockBytes, 0);
    const float d = load_half<kAlign>(block + kD);
    // Each half of the block has 32 bytes, with four elements in each byte, 32 apart.
    const Octet<kAlign> quants(block + 32 * (group / 16) + 8 * (group % 4));
    const int shift = 2 * (group % 16 / 4);
    for (int i = 0; i < 8; ++i) {
      out[i] = d * static_cast<float>(static_cast<int>((quants[i] >> shift) & 3) - 1);
    }
  }

 private:
  static constexpr int kD = 64;
};

}  // namespace phi3::transfer::decode
