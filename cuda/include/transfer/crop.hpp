// The decoded elements of each row that an operation keeps.
#pragma once

#include <cstdint>

namespace phi3::transfer {

// Columns in half precision can begin and end inside a block. The whole block is then decoded, and
// some of its elements are dropped. All counts are multiples of 8.
struct Crop {
  std::uint32_t row_elements;  // decoded elements of a row; 0 if all elements are kept
  std::uint32_t skip;          // dropped at the start of each row
  std::uint32_t keep;          // kept after them
};

}  // namespace phi3::transfer
