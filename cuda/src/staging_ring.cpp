#include "transfer/staging_ring.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "transfer/error.hpp"
#include "transfer/host_memory.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;
constexpr std::uint64_t kSmallestPage = 4096;
constexpr unsigned kMaxPopulators = 4;

void touch(std::byte* begin, const std::byte* end) {
  for (volatile std::byte* page = begin; page < end; page += kSmallestPage) *page = std::byte{0};
}

void populate(std::byte* data, std::uint64_t bytes) noexcept {
  const std::uint64_t share = round_up(bytes / kMaxPopulators, kHugePage) + kHugePage;
  std::vector<std::thread> helpers;
  std::uint64_t start = share;
  try {
    for (; start < bytes; start += share) {
      helpers.emplace_back(touch, data + start, data + std::min(bytes, start + share));
    }
  } catch (const std::exception&) {
    // There are no more threads, or no memory for them: this thread touches the rest.
    touch(data + start, data + bytes);
  }
  touch(data, data + std::min(bytes, share));
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

std::uint64_t StagingRing::size_for(std::uint64_t bytes) noexcept {
  return round_up(bytes, kHugePage);
}

StagingRing::StagingRing(std::uint64_t bytes) {
  if (bytes == 0) return;
  const std::uint64_t size = size_for(bytes);
  check_host_memory(size, Code::kHostOutOfMemory, "staging memory");
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    throw Error(Code::kHostOutOfMemory, error,
                "cannot map " + std::to_string(size) + " bytes of staging memory");
  }
  data_ = static_cast<std::byte*>(memory);
  size_ = size;
  // Only a hint: the ring is correct without huge pages.
  (void)madvise(memory, size, MADV_HUGEPAGE);
  populate(data_, size_);
}

StagingRing::~StagingRing() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace phi3::transfer
