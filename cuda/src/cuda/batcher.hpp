// Kernel launches for any number of segments.
#pragma once

#include <utility>

#include "transfer/kernels.hpp"

namespace transfer {

// Collects segments and launches them in batches that a kernel accepts. After the last add(), the
// caller must call flush().
template <class Segment, class Launch>
class Batcher {
 public:
  // `launch` takes a const kernels::Batch<Segment>&, and may throw.
  explicit Batcher(Launch launch) : launch_(std::move(launch)) {}

  void add(const Segment& segment) {
    batch_.segments[batch_.count++] = segment;
    if (batch_.count == kernels::kMaxBatch) flush();
  }

  void flush() {
    if (batch_.count != 0) launch_(std::as_const(batch_));
    batch_.count = 0;
  }

 private:
  Launch launch_;
  kernels::Batch<Segment> batch_{};
};

template <class Segment, class Launch>
Batcher<Segment, Launch> batcher(Launch launch) {
  return Batcher<Segment, Launch>(std::move(launch));
}

}  // namespace transfer
