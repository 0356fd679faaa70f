#include "transfer/cache_survey.hpp"

#include <sys/mman.h>

#include <algorithm>

#include "transfer/error.hpp"

namespace transfer {
namespace {

// The first page of so many bytes stands for all of them.
constexpr std::uint64_t kPartBytes = std::uint64_t{256} << 10;

// Parts that a thread takes at a time.
constexpr std::uint64_t kParts = 64;

std::vector<std::uint64_t> first_parts(const std::vector<SourceFile>& files) {
  std::vector<std::uint64_t> first{0};
  for (const SourceFile& file : files) {
    first.push_back(first.back() + (file.bytes + kPartBytes - 1) / kPartBytes);
  }
  return first;
}

}  // namespace

CacheSurvey::CacheSurvey(const std::vector<SourceFile>& files)
    : first_part_(first_parts(files)), parts_(first_part_.back()) {
  try {
    mappings_ = map_files(files);
  } catch (const Error&) {
    mappings_.clear();
  }
}

void CacheSurvey::take_part() noexcept {
  for (;;) {
    const std::uint64_t begin = next_.fetch_add(kParts, std::memory_order_relaxed);
    if (begin >= parts_.size()) return;
    const std::uint64_t end = std::min<std::uint64_t>(parts_.size(), begin + kParts);
    for (std::uint64_t part = begin; part < end; ++part) {
      const auto file = std::upper_bound(first_part_.begin(), first_part_.end(), part) - 1;
      (void)part_held(static_cast<std::uint32_t>(file - first_part_.begin()), part - *file);
    }
  }
}

bool CacheSurvey::held(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) noexcept {
  return part_held(file, offset / kPartBytes) && part_held(file, (offset + bytes - 1) / kPartBytes);
}

bool CacheSurvey::part_held(std::uint32_t file, std::uint64_t part) noexcept {
  std::atomic<Part>& known = parts_[first_part_[file] + part];
  Part found = known.load(std::memory_order_relaxed);
  if (found == Part::kUnknown) {
    unsigned char resident = 1;
    if (!mappings_.empty()) {
      // A refusal leaves it at held.
      (void)mincore(mappings_[file].data() + part * kPartBytes, 1, &resident);
    }
    found = (resident & 1) != 0 ? Part::kHeld : Part::kMissing;
    known.store(found, std::memory_order_relaxed);
  }
  return found == Part::kHeld;
}

}  // namespace transfer
