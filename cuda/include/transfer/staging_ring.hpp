// The host memory that chunks pass through.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transfer {

// Page-aligned anonymous memory, already backed by pages when the constructor returns, so that
// pinning it later costs the driver no page faults. Freed by the destructor.
class StagingRing {
 public:
  // The size of a ring for so many bytes: whole huge pages.
  static std::uint64_t size_for(std::uint64_t bytes) noexcept;

  // Populates with several threads. Throws Error{kHostOutOfMemory}, also if the host is known
  // to have less free memory; then nothing has been mapped.
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
