// NVIDIA GPUs as devices. Only in builds with CUDA.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transfer/device.hpp"

namespace phi3::transfer {

struct CudaDeviceInfo {
  std::int32_t ordinal;
  std::string name;
  std::string pci_bus_id;
  std::string identity;  // as Device::identity()
  std::int32_t compute_major;
  std::int32_t compute_minor;
  std::uint64_t total_bytes;
};

// Returns the visible GPUs in ordinal order. Creates no context. Throws Error{kDeviceUnavailable}
// if there is no usable driver.
std::vector<CudaDeviceInfo> list_cuda_devices();

// Creates the device's primary context, which takes several hundred milliseconds. `first` is the
// ordinal that the caller gives to the first visible GPU. The ordinal() of the device is that of
// the CUDA runtime, which counts from 0. Throws Error{kDeviceUnavailable}.
std::shared_ptr<const Device> open_cuda_device(std::int32_t ordinal, std::int32_t first);

}  // namespace phi3::transfer
