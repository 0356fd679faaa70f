// The kernels that a call needs on a device.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer/non_finite.hpp"

namespace phi3::transfer {

// The kernels that a call launches on one lane.
struct KernelUse {
  bool converts = false;                // whether a chunk needs staging on the device
  std::vector<std::uint32_t> decoders;  // ggml types that occur, each once
  std::vector<FloatFormat> floats;      // formats that are counted, each once
  bool digest = false;
};

}  // namespace phi3::transfer
