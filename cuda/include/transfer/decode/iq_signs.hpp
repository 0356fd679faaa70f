// The signs of eight elements, as the IQ types store them: bit i set negates element i.
#pragma once

#include <cstdint>

#include "transfer/decode/host_device.hpp"
#include "transfer/half.hpp"

namespace phi3::transfer::decode {

// Seven bits are stored; the eighth makes the number of negative elements even.
TRANSFER_HD std::uint32_t complete_signs(std::uint32_t seven) {
  std::uint32_t parity = seven ^ (seven >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return seven | (parity & 1) << 7;
}

TRANSFER_HD float apply_sign(float value, std::uint32_t signs, int i) {
  return float_from_bits(bits_from_float(value) ^ ((signs << (31 - i)) & 0x80000000u));
}

}  // namespace phi3::transfer::decode
