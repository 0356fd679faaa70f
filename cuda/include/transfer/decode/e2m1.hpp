// E2M1: the four-bit float of MXFP4 and NVFP4.
#pragma once

#include "transfer/decode/host_device.hpp"

namespace phi3::transfer::decode {

// Returns twice the value of a code, which is an integer: 0, 1, 2, 3, 4, 6, 8, 12 or a negative of
// these. As in ggml, the code of negative zero gives zero. Ignores bits above the lowest four.
TRANSFER_HD int doubled_e2m1(int code) {
  const int magnitude = code & 7;
  // From 4 on: the implied one and the significand bit, shifted by the exponent.
  const int value = magnitude < 4 ? magnitude : (2 + (magnitude & 1)) << ((magnitude >> 1) - 1);
  return (code & 8) != 0 ? -value : value;
}

}  // namespace phi3::transfer::decode
