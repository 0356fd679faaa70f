// A device for tests. Compiled with the feature `fake-device` alone.
#pragma once

#include <cstdint>
#include <memory>

#include "transfer/bridge.hpp"

namespace transfer::bridge {

// Host memory that behaves as a GPU does: what is submitted is done when it is waited for, and its
// calls can fail. The function `failing` of the device or its queue fails at its call number `nth`,
// from 1.
std::unique_ptr<Device> open_fake(rust::Str failing, std::uint64_t nth);

// How many calls of `failing` were made to a device of open_fake().
std::uint64_t fake_calls(const Device& device) noexcept;

}  // namespace transfer::bridge
