// A device for tests. Compiled with the feature `fake-device` alone.
#pragma once

#include <cstdint>
#include <memory>

#include "transfer/bridge.hpp"

namespace phi3::transfer::bridge {

// Opens host memory that behaves like a GPU: submitted work is done only when it is waited for, and
// calls can fail. The function `failing` of the device or its queue fails at call number `nth`,
// counted from 1. With peers, it can take bytes from other such devices.
std::unique_ptr<Device> open_fake(rust::Str failing, std::uint64_t nth, bool has_peers);

// Returns the number of calls of `failing` on a device of open_fake().
std::uint64_t fake_calls(const Device& device) noexcept;

}  // namespace phi3::transfer::bridge
