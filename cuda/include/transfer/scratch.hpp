// Memory of one reader for rows whose columns it gathers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "transfer/rounding.hpp"
#include "transfer/source.hpp"

namespace phi3::transfer {

class Scratch {
 public:
  // Returns at least `bytes` bytes, aligned for direct reads. Their content is unspecified. They
  // are valid until the next call. Throws std::bad_alloc.
  std::byte* reserve(std::uint64_t bytes) {
    if (bytes > size_) {
      size_ = 0;
      memory_.reset();
      memory_.reset(new std::byte[bytes + kSourceAlignment]);
      size_ = bytes;
    }
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    return memory_.get() + (round_up(address, kSourceAlignment) - address);
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::uint64_t size_ = 0;
};

}  // namespace phi3::transfer
