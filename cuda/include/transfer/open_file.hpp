// A file that a call reads.
#pragma once

#include <cstdint>

namespace transfer {

// Stays open for the call. Not owned.
struct OpenFile {
  int descriptor;
  std::uint64_t bytes;  // length that the operations were checked against
  std::uint32_t index;  // among the sources of the call
};

}  // namespace transfer
