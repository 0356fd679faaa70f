// What the page cache holds of a file.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "transfer/file_mapping.hpp"
#include "transfer/open_file.hpp"

namespace transfer {

// Remembers what was held before anything was read: reading a held range can have the kernel read
// ahead of it, and what it brings in so must not be taken for held, or one end of a file in the
// cache would draw in all the rest.
//
// Who neither owns a file nor may write it may not know what is cached of it.
class CacheSurvey {
 public:
  // Maps the file, and never reads through the mapping: a file that is cut cannot fault. `files` is
  // how many files are looked at in this way: the sample of each is so much smaller.
  CacheSurvey(const OpenFile& file, std::size_t files);

  // Nothing can be known of the file; then everything counts as held.
  bool is_blind() const noexcept { return !mapping_.has_value(); }

  // Whether a few parts all were held, which are spread evenly.
  bool sample_held() noexcept;

  // Looks at what nobody has looked at yet; from any number of threads.
  void take_part() noexcept;

  // Whether all parts of the range, which is not empty, were held. What has not been looked at is
  // looked at now; the answer stays the same.
  bool held(std::uint64_t offset, std::uint64_t bytes) noexcept;

 private:
  enum class Part : std::uint8_t { kUnknown, kHeld, kMissing };

  bool part_held(std::uint64_t part) noexcept;

  std::optional<FileMapping> mapping_;
  std::uint64_t sample_;
  std::vector<std::atomic<Part>> parts_;
  std::atomic<std::uint64_t> next_{0};
};

}  // namespace transfer
