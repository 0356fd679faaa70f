// Streams and events that are destroyed with their scope.
#pragma once

#include <cuda_runtime.h>

#include "check.hpp"

namespace phi3::transfer {

// Returns the lowest priority: such streams yield to all others. Throws Error{kDeviceFailure}.
inline int lowest_stream_priority() {
  int lowest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, nullptr), "cudaDeviceGetStreamPriorityRange");
  return lowest;
}

// A stream of the device that is current when it is made; the same device must be current when it
// is destroyed. It and the default stream do not wait for each other.
class Stream {
 public:
  // 0 is the default priority. Throws Error{kDeviceFailure, kOutOfMemory}.
  explicit Stream(int priority = 0) {
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority),
          "cudaStreamCreateWithPriority");
  }
  // Waits until the stream is idle, so that the memory of its work may be freed next. Destroying a
  // stream does not wait.
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
  // Events without timing are cheaper to wait for. cudaEventDefault makes one with timing. Throws
  // Error{kDeviceFailure, kOutOfMemory}.
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

}  // namespace phi3::transfer
