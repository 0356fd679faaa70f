// Digests of a buffer's ranges, beside whatever else the GPU does.
#pragma once

#include <cstddef>
#include <vector>

#include "device_array.hpp"
#include "stream.hpp"
#include "transfer/device.hpp"

namespace transfer {

// Made for the device that is current, which must be current again for every use, the destructor
// included. Works in a stream of the lowest priority and keeps its memory from call to call: making
// and freeing device memory would have other streams wait.
class Digester {
 public:
  // Throws Error{kDeviceFailure, kOutOfMemory}.
  Digester() : stream_(lowest_stream_priority()) {}

  // Waits for the digests, and for nothing else on the device. Ranges lie inside the buffer at
  // `data` and start on multiples of 16. Throws Error{kDeviceFailure, kOutOfMemory}.
  std::vector<Digest> digests(const std::byte* data, const std::vector<ByteRange>& ranges);

 private:
  DeviceArray<Digest> results_;
  // Goes first and waits: a call that failed may have left a kernel behind that writes results.
  Stream stream_;
};

}  // namespace transfer
