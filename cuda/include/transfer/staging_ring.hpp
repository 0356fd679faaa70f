// The host memory that chunks pass through.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transfer {

// Page-aligned anonymous memory, already backed by pages when the constructor returns, so that
// pinning it later costs the driver no page faults. Freed by the destructor.
class StagingRing {
 public:
  // What a ring for so many bytes takes: whole huge pages.
  static std::uint64_t size_for(std::uint64_t bytes) noexcept;

  // Populates with several threads. Throws Error{kHostOutOfMemory}, also where the host is known
  // not to have so much: before any of it is touched.
  explicit StagingRing(std::uint64_t bytes);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  std::byte* data() const noexcept { return data_; }
  std::uint64_t size() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
};

}  // namespace transfer
