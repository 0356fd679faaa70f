// Streams and events that end with their scope.
#pragma once

#include <cuda_runtime.h>

#include "check.hpp"

namespace transfer {

// The priority of streams that should stand back for all others. Throws Error{kDeviceFailure}.
inline int lowest_stream_priority() {
  int lowest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, nullptr), "cudaDeviceGetStreamPriorityRange");
  return lowest;
}

// Of the device that is current when it is made, which must be current again when it goes. Does not
// wait for the default stream, nor that for it.
class Stream {
 public:
  // 0 is the priority of streams that name none. Throws Error{kDeviceFailure, kOutOfMemory}.
  explicit Stream(int priority = 0) {
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority),
          "cudaStreamCreateWithPriority");
  }
  // Idle before it goes, so that what its work touches may be freed next. Destroying alone would
  // not wait.
  ~Stream() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  // Events that keep no time are cheaper to wait for; cudaEventDefault makes one that keeps it.
  // Throws Error{kDeviceFailure, kOutOfMemory}.
  explicit Event(unsigned flags = cudaEventDisableTiming) {
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
  }
  ~Event() {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(other.event_) { other.event_ = nullptr; }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event& operator=(Event&&) = delete;

  cudaEvent_t get() const noexcept { return event_; }

  void record(cudaStream_t stream) const {
    check(cudaEventRecord(event_, stream), "cudaEventRecord");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace transfer
