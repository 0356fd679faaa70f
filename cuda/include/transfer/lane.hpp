// One destination of an engine: a device and the queue of bytes to it.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "transfer/device.hpp"
#include "transfer/error.hpp"
#include "transfer/staging_ring.hpp"

namespace transfer {

// A staging ring that is pinned for a device, where it can be, until this goes.
class Adoption {
 public:
  Adoption(std::shared_ptr<const Device> device, StagingRing& ring)
      : device_(std::move(device)), ring_(ring), pinned_(device_->adopt(ring)) {}
  ~Adoption() { device_->release(ring_); }
  Adoption(const Adoption&) = delete;
  Adoption& operator=(const Adoption&) = delete;

  bool pinned() const noexcept { return pinned_; }

 private:
  std::shared_ptr<const Device> device_;
  StagingRing& ring_;
  bool pinned_;
};

class Lane {
 public:
  // `index` is its place among the lanes of its engine, and `alone` says that there is no other.
  // The ring outlives it. Throws Error{kDeviceFailure}.
  Lane(std::shared_ptr<const Device> device, std::uint32_t index, bool alone, StagingRing& ring,
       const QueueShape& shape);

  std::uint32_t index() const noexcept { return index_; }
  const Device& device() const noexcept { return *device_; }
  const Queue& queue() const noexcept { return *queue_; }
  bool pinned() const noexcept { return adoption_.pinned(); }
  std::uint64_t conversion_bytes() const noexcept { return device_->conversion_bytes(shape_); }

  // Does a step with the queue. Its errors name the lane.
  template <class Step>
  decltype(auto) with_queue(Step&& step) {
    return with_site([this] { return site(kUnknown); }, [&] { return step(*queue_); });
  }

  // Does a step with the queue on a thread that has bound itself to every lane of the engine. Its
  // errors name the lane and the operation.
  template <class Step>
  decltype(auto) on_reader(std::uint32_t operation, Step&& step) {
    return with_site([&] { return site(operation); },
                     [&] {
                       // The thread may have worked for another lane meanwhile.
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
  Adoption adoption_;  // released after the queue is gone
  std::unique_ptr<Queue> queue_;
};

}  // namespace transfer
