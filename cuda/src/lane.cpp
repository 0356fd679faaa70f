#include "transfer/lane.hpp"

#include <utility>

namespace phi3::transfer {

Lane::Lane(std::shared_ptr<const Device> device, std::uint32_t index, bool alone, StagingRing& ring,
           const QueueShape& shape)
    : device_(std::move(device)),
      index_(index),
      alone_(alone),
      shape_(shape),
      ring_pin_(device_, ring),
      queue_(device_->make_queue(shape)) {}

bool Lane::can_take_from(const Lane& carrier) const {
  return with_site([this] { return site(kUnknown); },
                   [&] { return device_->can_take_from(*carrier.device_); });
}

}  // namespace phi3::transfer
