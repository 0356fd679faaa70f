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

// Maps such a file. A read-only mapping is only made of a file that nobody can write any more
// (F_SEAL_WRITE). Throws Error{kForeignMemory, kOutOfMemory}.
std::unique_ptr<DeviceBuffer> import_host_buffer(const std::vector<MemoryShareView>& shares,
                                                 std::uint64_t bytes, Access access);

}  // namespace phi3::transfer
