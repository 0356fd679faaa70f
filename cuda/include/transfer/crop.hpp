// The decoded elements of each row that an operation keeps.
#pragma once

#include <cstdint>

namespace phi3::transfer {

// Half precision may be cut inside a block. The block is then decoded as a whole, and a part of its
// elements is dropped. All counts are multiples of 8.
struct Crop {
  std::uint32_t row_elements;  // decoded elements of a row; 0 if all elements are kept
  std::uint32_t skip;          // dropped at the start of each row
  std::uint32_t keep;          // kept after them
};

}  // namespace phi3::transfer
