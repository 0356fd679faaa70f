#include "transfer/cuda_device.hpp"

#include <cstdio>
#include <memory>
#include <vector>

#include "check.hpp"
#include "cuda_buffer.hpp"
#include "cuda_queue.hpp"
#include "device_guard.hpp"
#include "transfer/kernels.hpp"
#include "transfer/staging_ring.hpp"

namespace phi3::transfer {
namespace {

// Returns a UUID as the driver's tools print it.
std::string identity_of(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (std::size_t byte = 0; byte < sizeof uuid.bytes; ++byte) {
    if (byte == 4 || byte == 6 || byte == 8 || byte == 10) text += '-';
    char digits[3];
    (void)std::snprintf(digits, sizeof digits, "%02x",
                        static_cast<unsigned>(static_cast<unsigned char>(uuid.bytes[byte])));
    text += digits;
  }
  return text;
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(std::int32_t ordinal) : ordinal_(ordinal) {
    const DeviceGuard guard(ordinal_);
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties");
    name_ = properties.name;
    identity_ = identity_of(properties.uuid);
    // The runtime creates the primary context on its first use, which is this call.
    check(cudaFree(nullptr), "cudaFree", "creating the primary context");
  }

  DeviceKind kind() const noexcept override { return DeviceKind::kCuda; }
  std::int32_t ordinal() const noexcept override { return ordinal_; }
  std::string name() const override { return name_; }
  std::string identity() const override { return identity_; }

  std::optional<MemoryInfo> memory() const override {
    const DeviceGuard guard(ordinal_);
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    return MemoryInfo{free_bytes, total_bytes, MemoryBound::kDevice};
  }

  // Without peer access, the driver would copy through host memory.
  bool can_take_from(const Device& carrier) const override {
    if (carrier.kind() != DeviceKind::kCuda) return false;
    if (carrier.ordinal() == ordinal_) return true;
    const DeviceGuard guard(ordinal_);
    int can = 0;
    check(cudaDeviceCanAccessPeer(&can, ordinal_, carrier.ordinal()), "cudaDeviceCanAccessPeer");
    if (can == 0) return false;
    const cudaError_t status = cudaDeviceEnablePeerAccess(carrier.ordinal(), 0);
    if (status == cudaSuccess) return true;
    (void)cudaGetLastError();
    // A device has room for a limited number of peers.
    if (status == cudaErrorTooManyPeers) return false;
    if (status != cudaErrorPeerAccessAlreadyEnabled) check(status, "cudaDeviceEnablePeerAccess");
    return true;
  }

  std::unique_ptr<DeviceBuffer> allocate(std::uint64_t bytes) const override {
    return make_cuda_buffer(ordinal_, bytes);
  }
  std::unique_ptr<DeviceBuffer> allocate_shareable(std::uint64_t bytes) const override {
    return make_mapped_buffer(ordinal_, bytes);
  }
  std::unique_ptr<DeviceBuffer> import_memory(const std::vector<MemoryShareView>& shares,
                                              std::uint64_t bytes, Access access) const override {
    return import_mapped_buffer(ordinal_, shares, bytes, access);
  }

  bool pin(StagingRing& ring) const override {
    const DeviceGuard guard(ordinal_);
    const cudaError_t status = cudaHostRegister(ring.data(), ring.size(), cudaHostRegisterPortable);
    // Copies from pageable memory are slower but correct. A process may lack the right to pin
    // memory.
    if (status != cudaSuccess) (void)cudaGetLastError();
    // Memory that another lane's device has pinned is pinned for all devices.
    return status == cudaSuccess || status == cudaErrorHostMemoryAlreadyRegistered;
  }

  void unpin(StagingRing& ring) const noexcept override {
    const QuietDeviceGuard guard(ordinal_);
    if (cudaHostUnregister(ring.data()) != cudaSuccess) (void)cudaGetLastError();
  }

  void load_code(const KernelUse& kernels_used) const override {
    const DeviceGuard guard(ordinal_);
    if (kernels_used.converts) {
      check(static_cast<cudaError_t>(kernels::load_copy()), "cudaFuncGetAttributes");
    }
    for (std::uint32_t decoder : kernels_used.decoders) {
      check(static_cast<cudaError_t>(kernels::load_decoder(decoder)), "cudaFuncGetAttributes");
    }
    for (FloatFormat format : kernels_used.floats) {
      check(static_cast<cudaError_t>(kernels::load_counter(format)), "cudaFuncGetAttributes");
    }
    if (kernels_used.digest)
      check(static_cast<cudaError_t>(kernels::load_digest()), "cudaFuncGetAttributes");
  }

  std::unique_ptr<Queue> make_queue(const QueueShape& shape) const override {
    return make_cuda_queue(ordinal_, shape);
  }

  std::uint64_t conversion_bytes(const QueueShape& shape) const noexcept override {
    return cuda_queue_conversion_bytes(shape);
  }

 private:
  std::int32_t ordinal_;
  std::string name_;
  std::string identity_;
};

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) {
    (void)cudaGetLastError();
    return 0;
  }
  check(status, "cudaGetDeviceCount");
  return count;
}

}  // namespace

std::vector<CudaDeviceInfo> list_cuda_devices() {
  std::vector<CudaDeviceInfo> devices;
  const int count = device_count();
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
    char bus_id[32] = {};
    check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, ordinal), "cudaDeviceGetPCIBusId");
    devices.push_back({ordinal, properties.name, bus_id, identity_of(properties.uuid),
                       properties.major, properties.minor, properties.totalGlobalMem});
  }
  return devices;
}

std::shared_ptr<const Device> open_cuda_device(std::int32_t ordinal, std::int32_t first) {
  const int count = device_count();
  const std::int64_t visible = std::int64_t{ordinal} - first;
  if (visible < 0 || visible >= count) {
    throw Error(Code::kDeviceUnavailable, 0,
                "CUDA device " + std::to_string(ordinal) + " does not exist: " +
                    (count == 0 ? "no GPU is visible" : std::to_string(count) + " visible"));
  }
  return std::make_shared<const CudaDevice>(static_cast<std::int32_t>(visible));
}

}  // namespace phi3::transfer
