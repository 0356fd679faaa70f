// A read-only view of a sequence. Does not own it.
#pragma once

#include <cstddef>

namespace phi3::transfer {

template <class Item>
struct View {
  const Item* data;
  std::size_t count;

  const Item& operator[](std::size_t index) const { return data[index]; }
  const Item* begin() const { return data; }
  const Item* end() const { return data + count; }
  std::size_t size() const { return count; }
};

}  // namespace phi3::transfer
