// The properties of each operation's bytes that readers determine.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transfer/digest.hpp"
#include "transfer/segment.hpp"

namespace phi3::transfer {

class OpFindings {
 public:
  OpFindings(std::size_t operations, bool digest)
      : digest_(digest), nonzero_(operations), digests_(digest ? operations : 0) {}

  // Examines bytes that a reader has just read, while they are in its core's cache. There is at
  // least one byte. The bytes belong to one segment and start at `offset` of its operation.
  void examine(const Segment& segment, const std::byte* bytes, std::uint64_t count,
               std::uint64_t offset);

  // For use after all reads: whether every byte of an operation is zero, and the digest of its
  // bytes, which is zero if digests were not requested.
  bool all_zero(std::size_t op) const { return !nonzero_[op].load(); }
  Digest digest(std::size_t op) const;

 private:
  struct SharedDigest {
    std::atomic<std::uint64_t> sum{0};
    std::atomic<std::uint64_t> mix{0};
  };

  bool digest_;
  std::vector<std::atomic<bool>> nonzero_;  // one for each operation, like the digests
  std::vector<SharedDigest> digests_;
};

}  // namespace phi3::transfer
