#include "transfer/device.hpp"

#include "transfer/error.hpp"

namespace phi3::transfer {

void check_inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) {
  if (bytes > size || offset > size - bytes) {
    throw Error(Code::kInvalidArgument, 0, "the range exceeds the device buffer");
  }
}

void check_digest_start(std::uint64_t offset) {
  if (offset % 16 != 0) {
    throw Error(Code::kInvalidArgument, 0, "a digest's range must start at a multiple of 16 bytes");
  }
}

}  // namespace phi3::transfer
