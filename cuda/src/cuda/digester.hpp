// Digests of a buffer's ranges, beside whatever else the GPU does.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "transfer/device.hpp"

namespace transfer {

// Made for the device that is current, which must be current again for every use, the destructor
// included. Works in a stream of the lowest priority and keeps its memory from call to call: making
// and freeing device memory would have other streams wait.
class Digester {
 public:
  // Throws Error{kDeviceFailure}.
  Digester();
  ~Digester();
  Digester(const Digester&) = delete;
  Digester& operator=(const Digester&) = delete;

  // Waits for the digests, and for nothing else on the device. Ranges lie inside the buffer at
  // `data` and start on multiples of 16. Throws Error{kDeviceFailure, kOutOfMemory}.
  std::vector<Digest> digests(const std::byte* data, const std::vector<ByteRange>& ranges);

 private:
  void reserve(std::size_t count);

  cudaStream_t stream_ = nullptr;
  Digest* results_ = nullptr;  // on the device
  std::size_t capacity_ = 0;
};

}  // namespace transfer
