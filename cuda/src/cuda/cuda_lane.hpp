// A reader's stream to a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "transfer/device.hpp"

namespace transfer {

std::unique_ptr<Lane> make_cuda_lane(int ordinal, const LaneShape& shape, std::byte* staging);

std::uint64_t cuda_lane_conversion_bytes(const LaneShape& shape) noexcept;

}  // namespace transfer
