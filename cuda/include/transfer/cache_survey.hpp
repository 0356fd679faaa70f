// What the page cache holds of files.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transfer/file_mapping.hpp"
#include "transfer/source.hpp"

namespace transfer {

// Remembers what was held before anything was read: reading a held range can have the kernel read
// ahead of it, and what it brings in so must not be taken for held, or one end of a file in the
// cache would draw in all the rest.
//
// Who neither owns a file nor may write it may not know what is cached of it.
class CacheSurvey {
 public:
  // Maps the files, and never reads through the mappings: a file that is cut cannot fault.
  explicit CacheSurvey(const std::vector<SourceFile>& files);

  // Nothing can be known of some file; then everything counts as held.
  bool is_blind() const noexcept { return blind_; }

  // Whether a few parts all were held, which are spread evenly.
  bool sample_held() noexcept;

  // Looks at what nobody has looked at yet; from any number of threads.
  void take_part() noexcept;

  // Whether all parts of the range, which is not empty, were held. What has not been looked at is
  // looked at now; the answer stays the same.
  bool held(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) noexcept;

 private:
  enum class Part : std::uint8_t { kUnknown, kHeld, kMissing };

  // Of all files' parts, in order.
  bool part_held(std::uint64_t part) noexcept;
  bool part_held(std::uint32_t file, std::uint64_t part) noexcept;

  bool blind_;
  std::vector<FileMapping> mappings_;
  std::vector<std::uint64_t> first_part_;  // of each file, and one past the last of all
  std::vector<std::atomic<Part>> parts_;
  std::atomic<std::uint64_t> next_{0};
};

}  // namespace transfer
