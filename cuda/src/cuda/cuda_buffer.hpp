// Buffers in the memory of a GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "transfer/device.hpp"

namespace phi3::transfer {

// Memory of the process's own context. Throws Error{kOutOfMemory, kDeviceFailure}.
std::unique_ptr<DeviceBuffer> make_cuda_buffer(int ordinal, std::uint64_t bytes);

// Memory that other processes can map. Throws as above.
std::unique_ptr<DeviceBuffer> make_mapped_buffer(int ordinal, std::uint64_t bytes);

// Maps such memory. Throws Error{kForeignMemory, kDeviceFailure}.
std::unique_ptr<DeviceBuffer> import_mapped_buffer(int ordinal,
                                                   const std::vector<MemoryShareView>& shares,
                                                   std::uint64_t bytes, Access access);

}  // namespace phi3::transfer
