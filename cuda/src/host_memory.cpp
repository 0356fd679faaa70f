#include "transfer/host_memory.hpp"

#include <algorithm>

#include "transfer/error.hpp"
#include "transfer/memory_cgroups.hpp"
#include "transfer/text_file.hpp"

namespace phi3::transfer {
namespace {

constexpr std::uint64_t kKib = 1024;

// Smaller allocations are not checked, because reading the figures would take longer.
constexpr std::uint64_t kLeastChecked = std::uint64_t{1} << 20;

// The smallest figures of all added limits.
class LowestLimit {
 public:
  void add(std::uint64_t used, std::uint64_t total, MemoryBound bound) {
    add_free(total - std::min(used, total), total, bound);
  }

  void add_free(std::uint64_t free, std::uint64_t total, MemoryBound bound) {
    if (!memory_) memory_ = MemoryInfo{free, total, bound};
    if (free < memory_->free_bytes) {
      memory_->free_bytes = free;
      memory_->bound = bound;
    }
    memory_->total_bytes = std::min(memory_->total_bytes, total);
  }

  const std::optional<MemoryInfo>& get() const { return memory_; }

 private:
  std::optional<MemoryInfo> memory_;
};

void add_limit(LowestLimit& lowest, rlim_t limit, std::string_view status, std::string_view used,
               MemoryBound bound) {
  if (limit == RLIM_INFINITY) return;
  lowest.add(number_of(status, used).value_or(0) * kKib, limit, bound);
}

rlim_t limit_of(decltype(RLIMIT_AS) resource) {
  rlimit limit{};
  return getrlimit(resource, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

const char* text_of(MemoryBound bound) {
  switch (bound) {
    case MemoryBound::kDevice:
      return "the machine's memory";
    case MemoryBound::kCgroup:
      return "the memory cgroup";
    case MemoryBound::kAddressSpace:
      return "RLIMIT_AS";
    case MemoryBound::kData:
      return "RLIMIT_DATA";
  }
  return "";
}

}  // namespace

std::optional<MemoryInfo> host_memory(const std::string& root, const ProcessLimits& limits) {
  LowestLimit lowest;
  const std::string machine = read_text(root + "/proc/meminfo").value_or("");
  const std::optional<std::uint64_t> available = number_of(machine, "MemAvailable:");
  const std::optional<std::uint64_t> total = number_of(machine, "MemTotal:");
  if (available && total) {
    lowest.add_free(std::min(*available, *total) * kKib, *total * kKib, MemoryBound::kDevice);
  }
  for (const CgroupMemory& group : memory_cgroups(root)) {
    lowest.add(group.used, group.limit, MemoryBound::kCgroup);
  }
  const std::string status = read_text(root + "/proc/self/status").value_or("");
  add_limit(lowest, limits.address_space, status, "VmSize:", MemoryBound::kAddressSpace);
  add_limit(lowest, limits.data, status, "VmData:", MemoryBound::kData);
  return lowest.get();
}

std::optional<MemoryInfo> host_memory() {
  return host_memory("", {limit_of(RLIMIT_AS), limit_of(RLIMIT_DATA)});
}

void check_host_memory(std::uint64_t bytes, Code code, const std::string& what) {
  if (bytes < kLeastChecked) return;
  const std::optional<MemoryInfo> memory = host_memory();
  if (!memory || bytes <= memory->free_bytes) return;
  throw Error(code, 0,
              what + ": " + std::to_string(bytes) + " bytes required, " +
                  std::to_string(memory->free_bytes) + " bytes free of " +
                  std::to_string(memory->total_bytes) + " bytes total, limited by " +
                  text_of(memory->bound));
}

}  // namespace phi3::transfer
