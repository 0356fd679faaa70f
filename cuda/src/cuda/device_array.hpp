// Device memory that is kept between uses.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include "check.hpp"

namespace phi3::transfer {

// Plain values in the memory of the device that is current in reserve(). The same device must be
// current in the destructor. Before either call, the caller must wait for queued work on the
// memory.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  ~DeviceArray() {
    if (data_ != nullptr) (void)cudaFree(data_);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  // Null before the first reserve().
  T* data() const noexcept { return data_; }

  // Makes room for `count` values, without writing them. Memory that is too small is freed with its
  // content, for which the driver waits until the whole device is idle. `purpose` completes "N
  // bytes for ...". Throws Error{kDeviceFailure, kOutOfMemory}, and then has no memory at all.
  void reserve(std::size_t count, const char* purpose) {
    if (count <= capacity_) return;
    capacity_ = 0;
    if (data_ != nullptr) check(cudaFree(std::exchange(data_, nullptr)), "cudaFree");
    const std::size_t bytes = count * sizeof(T);
    // Nothing may throw after a successful call.
    const std::string text = std::to_string(bytes) + " bytes for " + purpose;
    check(cudaMalloc(reinterpret_cast<void**>(&data_), bytes), "cudaMalloc", text);
    capacity_ = count;
  }

 private:
  T* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace phi3::transfer
