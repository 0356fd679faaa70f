#include "transfer/cache_survey.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "transfer/error.hpp"

namespace transfer {
namespace {

// The first page of so many bytes stands for all of them. A question costs a microsecond, and all
// of them should be answered before the first read.
constexpr std::uint64_t kPartBytes = std::uint64_t{2} << 20;

// Parts that a thread takes at a time.
constexpr std::uint64_t kParts = 16;

// Parts that stand for all; one thread asks about them while nothing else is done.
constexpr std::uint64_t kSample = 64;

// As the kernel decides whether mincore() tells the truth; otherwise it calls every page resident.
bool may_ask(const SourceFile& file) {
  struct stat status{};
  if (fstat(file.descriptor, &status) != 0) return false;
  if (status.st_uid == geteuid()) return true;
  const std::string path = "/proc/self/fd/" + std::to_string(file.descriptor);
  return faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
}

std::vector<std::uint64_t> first_parts(const std::vector<SourceFile>& files) {
  std::vector<std::uint64_t> first{0};
  for (const SourceFile& file : files) {
    first.push_back(first.back() + (file.bytes + kPartBytes - 1) / kPartBytes);
  }
  return first;
}

}  // namespace

CacheSurvey::CacheSurvey(const std::vector<SourceFile>& files)
    : blind_(!std::all_of(files.begin(), files.end(), may_ask)),
      first_part_(first_parts(files)),
      parts_(first_part_.back()) {
  if (blind_) return;
  try {
    mappings_ = map_files(files);
  } catch (const Error&) {
    mappings_.clear();
    blind_ = true;
  }
}

bool CacheSurvey::sample_held() noexcept {
  if (blind_) return true;
  const std::uint64_t count = std::min<std::uint64_t>(kSample, parts_.size());
  for (std::uint64_t i = 0; i < count; ++i) {
    if (!part_held(parts_.size() * i / count)) return false;
  }
  return true;
}

void CacheSurvey::take_part() noexcept {
  if (blind_) return;
  for (;;) {
    const std::uint64_t begin = next_.fetch_add(kParts, std::memory_order_relaxed);
    if (begin >= parts_.size()) return;
    const std::uint64_t end = std::min<std::uint64_t>(parts_.size(), begin + kParts);
    for (std::uint64_t part = begin; part < end; ++part) (void)part_held(part);
  }
}

bool CacheSurvey::held(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) noexcept {
  if (blind_) return true;
  const std::uint64_t last = (offset + bytes - 1) / kPartBytes;
  for (std::uint64_t part = offset / kPartBytes; part <= last; ++part) {
    if (!part_held(file, part)) return false;
  }
  return true;
}

bool CacheSurvey::part_held(std::uint64_t part) noexcept {
  const auto file = std::upper_bound(first_part_.begin(), first_part_.end(), part) - 1;
  return part_held(static_cast<std::uint32_t>(file - first_part_.begin()), part - *file);
}

bool CacheSurvey::part_held(std::uint32_t file, std::uint64_t part) noexcept {
  std::atomic<Part>& known = parts_[first_part_[file] + part];
  Part found = known.load(std::memory_order_relaxed);
  if (found == Part::kUnknown) {
    unsigned char resident = 0;
    const int status = mincore(mappings_[file].data() + part * kPartBytes, 1, &resident);
    const Part seen = status == 0 && (resident & 1) != 0 ? Part::kHeld : Part::kMissing;
    // The first answer stands.
    if (known.compare_exchange_strong(found, seen)) found = seen;
  }
  return found == Part::kHeld;
}

}  // namespace transfer
