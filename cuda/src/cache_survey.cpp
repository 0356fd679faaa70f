#include "transfer/cache_survey.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

// The first page of each part represents the whole part. A query takes a microsecond, and all
// queries should be answered before the first read.
constexpr std::uint64_t kPartBytes = std::uint64_t{2} << 20;

// Parts that a thread queries at a time.
constexpr std::uint64_t kPartsAtOnce = 16;

// Parts in the samples of all files together. One thread queries them while nothing else runs.
constexpr std::uint64_t kSample = 64;

// Whether mincore() reports the true state to this process, by the kernel's own rule. To other
// processes it reports every page as resident.
bool can_query(const OpenFile& file) {
  struct stat status{};
  if (fstat(file.descriptor, &status) != 0) return false;
  if (status.st_uid == geteuid()) return true;
  const std::string path = "/proc/self/fd/" + std::to_string(file.descriptor);
  return faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
}

std::optional<FileMapping> map(const OpenFile& file) {
  if (!can_query(file)) return std::nullopt;
  try {
    return FileMapping(file);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

CacheSurvey::CacheSurvey(const OpenFile& file, std::size_t files)
    : mapping_(map(file)),
      sample_(std::max<std::uint64_t>(1, kSample / files)),
      parts_((file.bytes + kPartBytes - 1) / kPartBytes) {}

bool CacheSurvey::sample_is_cached() noexcept {
  if (is_unavailable()) return true;
  const std::uint64_t count = std::min<std::uint64_t>(sample_, parts_.size());
  for (std::uint64_t i = 0; i < count; ++i) {
    if (!part_is_cached(parts_.size() * i / count)) return false;
  }
  return true;
}

void CacheSurvey::query_parts() noexcept {
  if (is_unavailable()) return;
  for (;;) {
    const std::uint64_t begin = next_.fetch_add(kPartsAtOnce, std::memory_order_relaxed);
    if (begin >= parts_.size()) return;
    const std::uint64_t end = std::min<std::uint64_t>(parts_.size(), begin + kPartsAtOnce);
    for (std::uint64_t part = begin; part < end; ++part) (void)part_is_cached(part);
  }
}

bool CacheSurvey::is_cached(std::uint64_t offset, std::uint64_t bytes) noexcept {
  if (is_unavailable()) return true;
  const std::uint64_t last = (offset + bytes - 1) / kPartBytes;
  for (std::uint64_t part = offset / kPartBytes; part <= last; ++part) {
    if (!part_is_cached(part)) return false;
  }
  return true;
}

bool CacheSurvey::part_is_cached(std::uint64_t part) noexcept {
  std::atomic<Part>& known = parts_[part];
  Part found = known.load(std::memory_order_relaxed);
  if (found == Part::kUnknown) {
    unsigned char resident = 0;
    const int status = mincore(mapping_->data() + part * kPartBytes, 1, &resident);
    const Part seen = status == 0 && (resident & 1) != 0 ? Part::kCached : Part::kMissing;
    // Keep the first answer.
    if (known.compare_exchange_strong(found, seen)) found = seen;
  }
  return found == Part::kCached;
}

}  // namespace phi3::transfer
