// Buffers in host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "transfer/device.hpp"

namespace phi3::transfer {

// Memory of this process alone. Throws Error{kOutOfMemory}.
std::unique_ptr<DeviceBuffer> make_host_buffer(std::uint64_t bytes);

// A file in memory (memfd), which other processes can map. Throws Error{kOutOfMemory}.
std::unique_ptr<DeviceBuffer> make_shareable_host_buffer(std::uint64_t bytes);

// Maps such a file. A file that is mapped read-only must be sealed (F_SEAL_WRITE), so that no
// process can write to it. Throws Error{kForeignMemory, kOutOfMemory}.
std::unique_ptr<DeviceBuffer> import_host_buffer(const std::vector<MemoryShareView>& shares,
                                                 std::uint64_t bytes, Access access);

}  // namespace phi3::transfer
