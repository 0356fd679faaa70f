// The times of the steps of a call.
#pragma once

#include <cstdint>

namespace phi3::transfer {

enum class SpanKind : std::uint32_t {
  kWait = 0,   // a reader waits for a free slot in the ring
  kRead = 1,   // a reader fills its share of a slot
  kQueue = 2,  // a reader queues copies and conversions
  kCopy = 3,   // the device copies a chunk; starts when its queue reaches the chunk
  kWork = 4,   // the device converts and digests the chunk; on the host device, a reader does
};

// The lane of steps that belong to no lane.
constexpr std::uint32_t kNoLane = UINT32_MAX;

struct Span {
  std::uint32_t reader;  // 0 for steps of a device with a queue of its own
  std::uint32_t lane;    // for kQueue, kCopy and kWork; kNoLane for other steps
  SpanKind kind;
  std::uint64_t chunk;
  double start;  // seconds since the call's first read
  double end;
  // The operations that need bytes of the chunk: a range of their indices.
  std::uint32_t first_op = 0;
  std::uint32_t op_count = 0;
};

}  // namespace phi3::transfer
