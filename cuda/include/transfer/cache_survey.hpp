// Finds out which parts of a file are in the page cache.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "transfer/file_mapping.hpp"
#include "transfer/open_file.hpp"

namespace phi3::transfer {

// Records which parts were cached before the first read. When a cached range is read, the kernel
// may read ahead. Those new pages must not count as cached: otherwise one cached end of a file
// would lead to buffered reads of all the rest.
//
// A process that neither owns a file nor may write to it cannot query the cache of that file.
class CacheSurvey {
 public:
  // Maps the file but never reads through the mapping, so that a truncated file causes no fault.
  // `files` is the number of files in the call. The more files, the smaller the sample of each.
  CacheSurvey(const OpenFile& file, std::size_t files);

  // True if the cache cannot be queried for this file. Then everything counts as cached.
  bool is_unavailable() const noexcept { return !mapping_.has_value(); }

  // Whether a few parts, spread evenly over the file, were all cached.
  bool sample_is_cached() noexcept;

  // Queries parts that no thread has queried yet. Any number of threads may call it at once.
  void query_parts() noexcept;

  // Whether all parts of the range were cached. The range is not empty. Queries parts that are
  // still unknown. The answer for a range never changes.
  bool is_cached(std::uint64_t offset, std::uint64_t bytes) noexcept;

 private:
  enum class Part : std::uint8_t { kUnknown, kCached, kMissing };

  bool part_is_cached(std::uint64_t part) noexcept;

  std::optional<FileMapping> mapping_;
  std::uint64_t sample_;
  std::vector<std::atomic<Part>> parts_;
  std::atomic<std::uint64_t> next_{0};
};

}  // namespace phi3::transfer
