// A staging ring that is pinned for a device.
#pragma once

#include <memory>
#include <utility>

#include "transfer/device.hpp"
#include "transfer/staging_ring.hpp"

namespace phi3::transfer {

// Pins a staging ring for a device, if possible, and unpins it in the destructor.
class RingPin {
 public:
  RingPin(std::shared_ptr<const Device> device, StagingRing& ring)
      : device_(std::move(device)), ring_(ring), pinned_(device_->pin(ring)) {}
  ~RingPin() { device_->unpin(ring_); }
  RingPin(const RingPin&) = delete;
  RingPin& operator=(const RingPin&) = delete;

  bool pinned() const noexcept { return pinned_; }

 private:
  std::shared_ptr<const Device> device_;
  StagingRing& ring_;
  bool pinned_;
};

}  // namespace phi3::transfer
