// Digests ranges of a buffer while the GPU does other work.
#pragma once

#include <cstddef>
#include <vector>

#include "device_array.hpp"
#include "stream.hpp"
#include "transfer/device.hpp"

namespace phi3::transfer {

// Belongs to the device that is current when it is made. The same device must be current for every
// use, including the destructor. Works in a stream of the lowest priority, and keeps its memory
// between calls: allocating and freeing device memory would make other streams wait.
class Digester {
 public:
  // Throws Error{kDeviceFailure, kOutOfMemory}.
  Digester() : stream_(lowest_stream_priority()) {}

  // Waits only for the digests, not for other work of the device. Ranges lie inside the buffer at
  // `data` and start on multiples of 16 bytes. Throws Error{kDeviceFailure, kOutOfMemory}.
  std::vector<Digest> digests(const std::byte* data, const std::vector<ByteRange>& ranges);

 private:
  DeviceArray<Digest> results_;
  // Destroyed first, and waits then: a failed call may have left a kernel that still writes
  // results.
  Stream stream_;
};

}  // namespace phi3::transfer
