#include "transfer/op_findings.hpp"

#include <cstring>

namespace phi3::transfer {
namespace {

// Whether any of these bytes is not zero. There is at least one.
bool has_nonzero(const std::byte* bytes, std::uint64_t count) {
  // If each byte equals the one before it, all equal the first.
  return bytes[0] != std::byte{0} || std::memcmp(bytes, bytes + 1, count - 1) != 0;
}

}  // namespace

void OpFindings::examine(const Segment& segment, const std::byte* bytes, std::uint64_t count,
                         std::uint64_t offset) {
  // After the first byte that is not zero, the rest of the operation need not be examined.
  std::atomic<bool>& nonzero = nonzero_[segment.op];
  if (!nonzero.load(std::memory_order_relaxed) && has_nonzero(bytes, count)) {
    nonzero.store(true, std::memory_order_relaxed);
  }
  if (!digest_) return;
  const Digest digest = digest_piece(reinterpret_cast<const std::uint8_t*>(bytes), count, offset);
  digests_[segment.op].sum.fetch_add(digest.sum, std::memory_order_relaxed);
  digests_[segment.op].mix.fetch_add(digest.mix, std::memory_order_relaxed);
}

Digest OpFindings::digest(std::size_t op) const {
  if (!digest_) return {};
  return {digests_[op].sum.load(), digests_[op].mix.load()};
}

}  // namespace phi3::transfer
