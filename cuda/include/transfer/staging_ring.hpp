// The host memory through which chunks pass.
#pragma once

#include <cstddef>
#include <cstdint>

namespace phi3::transfer {

// Page-aligned anonymous memory. All its pages exist when the constructor returns, so that pinning
// it later causes no page faults. The destructor frees it.
class StagingRing {
 public:
  // Returns the size of a ring for `bytes`: whole huge pages.
  static std::uint64_t size_for(std::uint64_t bytes) noexcept;

  // Populates the pages with several threads. Throws Error{kHostOutOfMemory}, also if the host is
  // known to have less free memory; then nothing has been mapped.
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

}  // namespace phi3::transfer
