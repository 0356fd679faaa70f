#include "transfer/device.hpp"

#include "transfer/error.hpp"

namespace phi3::transfer {

void check_inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) {
  if (bytes > size || offset > size - bytes) {
    throw Error(Code::kInvalidArgument, 0, "the range exceeds the device buffer");
  }
}

void check_writable(const DeviceBuffer& buffer) {
  if (!buffer.is_writable()) {
    throw Error(Code::kInvalidArgument, 0, "the device buffer is read-only");
  }
}

void check_digest_start(std::uint64_t offset) {
  if (offset % 16 != 0) {
    throw Error(Code::kInvalidArgument, 0, "a digest's range must start at a multiple of 16 bytes");
  }
}

namespace {

[[noreturn]] void not_shareable() {
  throw Error(Code::kInvalidArgument, 0, "the memory was not allocated as shareable");
}

}  // namespace

void DeviceBuffer::protect() { not_shareable(); }

std::vector<MemoryShare> DeviceBuffer::share() { not_shareable(); }

void DeviceBuffer::resize(std::uint64_t) { not_shareable(); }

void DeviceBuffer::give_access(const Device&) { not_shareable(); }

void Queue::carry(std::uint32_t, const Cargo&, const std::byte*) {
  throw Error(Code::kInternal, 0, "the device does not carry bytes for others");
}

void Queue::take(std::uint32_t, const Batch&, const Queue&) {
  throw Error(Code::kInternal, 0, "the device does not take bytes from others");
}

}  // namespace phi3::transfer
