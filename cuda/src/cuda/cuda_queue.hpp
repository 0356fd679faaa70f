// The queue of a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "transfer/device.hpp"

namespace phi3::transfer {

std::unique_ptr<Queue> make_cuda_queue(int ordinal, const QueueShape& shape);

std::uint64_t cuda_queue_conversion_bytes(const QueueShape& shape) noexcept;

}  // namespace phi3::transfer
