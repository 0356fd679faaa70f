// A file that a call reads.
#pragma once

#include <cstdint>

namespace phi3::transfer {

// Not owned. Stays open for the call.
struct OpenFile {
  int descriptor;
  std::uint64_t bytes;  // length against which operations were checked
  std::uint32_t index;  // position among the sources of the call
};

}  // namespace phi3::transfer
