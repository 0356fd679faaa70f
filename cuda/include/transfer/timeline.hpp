// What a call did when, for people who tune it.
#pragma once

#include <chrono>
#include <cstdint>

namespace transfer {

enum class SpanKind : std::uint32_t {
  kWait = 0,   // a reader waits for its chunk's slot in the ring
  kRead = 1,   // a reader fills its share of a slot
  kQueue = 2,  // a reader queues a chunk's copies and conversions; on the host device, does them
  kCopy = 3,   // the device takes a chunk, from when its queue is free for it
  kWork = 4,   // the device converts and digests it
};

// The lane of a step that is of none.
constexpr std::uint32_t kNoLane = UINT32_MAX;

struct Span {
  std::uint32_t reader;  // 0 for what the device does
  std::uint32_t lane;    // of kQueue, kCopy and kWork; kNoLane of the rest
  SpanKind kind;
  std::uint64_t chunk;
  double start;  // seconds since the call's first read
  double end;
};

// The clock of a call.
class CallClock {
 public:
  CallClock() : origin_(std::chrono::steady_clock::now()) {}

  double seconds() const {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - origin_;
    return elapsed.count();
  }

 private:
  std::chrono::steady_clock::time_point origin_;
};

}  // namespace transfer
