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

}  // namespace phi3::transfer
