// Kernel launches for any number of items.
#pragma once

#include <utility>

#include "transfer/kernels.hpp"

namespace phi3::transfer {

// Collects items and launches them in batches that a kernel accepts. After the last add(), the
// caller must call flush().
template <class Item, class Launch>
class Batcher {
 public:
  // `launch` takes a const kernels::LaunchBatch<Item>&, and may throw.
  explicit Batcher(Launch launch) : launch_(std::move(launch)) {}

  void add(const Item& item) {
    batch_.items[batch_.count++] = item;
    if (batch_.count == kernels::kMaxBatch) flush();
  }

  void flush() {
    if (batch_.count != 0) launch_(std::as_const(batch_));
    batch_.count = 0;
  }

 private:
  Launch launch_;
  kernels::LaunchBatch<Item> batch_{};
};

template <class Item, class Launch>
Batcher<Item, Launch> batcher(Launch launch) {
  return Batcher<Item, Launch>(std::move(launch));
}

}  // namespace phi3::transfer
