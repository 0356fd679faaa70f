#include "transfer/segment.hpp"

#include <algorithm>

namespace phi3::transfer {
namespace {

// More separate copies than this take longer than one copy and a scatter on the device.
constexpr std::uint32_t kMaxDirectCopies = 4;

}  // namespace

const Segment* end_of_copy(const Segment* first, const Segment* end) {
  const Segment* next = first + 1;
  while (next != end && next->chunk_offset == next[-1].chunk_offset + next[-1].source_bytes &&
         next->dest_offset == next[-1].dest_offset + next[-1].dest_bytes) {
    ++next;
  }
  return next;
}

bool lands_directly(const Segment* segments, std::uint32_t count) {
  const Segment* const end = segments + count;
  const bool copied = std::all_of(
      segments, end, [](const Segment& segment) { return segment.decoder == kCopyBytes; });
  if (!copied) return false;
  std::uint32_t copies = 0;
  for (const Segment* next = segments; next != end && copies <= kMaxDirectCopies; ++copies) {
    next = end_of_copy(next, end);
  }
  return copies <= kMaxDirectCopies;
}

}  // namespace phi3::transfer
