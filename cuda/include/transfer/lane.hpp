// One destination of an engine: a device, and the queue that moves bytes to it.
#pragma once

#include <cstdint>
#include <memory>

#include "transfer/device.hpp"
#include "transfer/error.hpp"
#include "transfer/ring_pin.hpp"
#include "transfer/staging_ring.hpp"

namespace phi3::transfer {

class Lane {
 public:
  // `index` is the position among the engine's lanes. `alone` says whether there is no other lane.
  // The ring outlives the lane. Throws Error{kDeviceFailure}.
  Lane(std::shared_ptr<const Device> device, std::uint32_t index, bool alone, StagingRing& ring,
       const QueueShape& shape);

  std::uint32_t index() const noexcept { return index_; }
  const Device& device() const noexcept { return *device_; }
  const Queue& queue() const noexcept { return *queue_; }
  bool pinned() const noexcept { return ring_pin_.pinned(); }
  bool can_take_from(const Lane& carrier) const;
  std::uint64_t conversion_bytes() const noexcept { return device_->conversion_bytes(shape_); }

  // Calls `step` with the queue. Adds the lane to its errors.
  template <class Step>
  decltype(auto) with_queue(Step&& step) {
    return with_site([this] { return site(kUnknown); }, [&] { return step(*queue_); });
  }

  // Calls `step` with the queue, on a thread that is already bound to every lane of the engine.
  // Adds the lane and the operation to its errors.
  template <class Step>
  decltype(auto) on_reader(std::uint32_t operation, Step&& step) {
    return with_site([&] { return site(operation); },
                     [&] {
                       // The thread may still be bound to another lane's device.
                       if (!alone_) queue_->bind_thread();
                       return step(*queue_);
                     });
  }

 private:
  ErrorSite site(std::int64_t operation) const { return {kUnknown, operation, index_}; }

  std::shared_ptr<const Device> device_;
  std::uint32_t index_;
  bool alone_;
  QueueShape shape_;
  RingPin ring_pin_;  // destroyed after the queue
  std::unique_ptr<Queue> queue_;
};

}  // namespace phi3::transfer
