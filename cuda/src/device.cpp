#include "transfer/device.hpp"

#include "transfer/error.hpp"

namespace transfer {

void check_digest_start(std::uint64_t offset) {
  if (offset % 16 != 0) {
    throw Error(Code::kInvalidArgument, 0, "a digest's range must start on a multiple of 16");
  }
}

}  // namespace transfer
