// Sources that are no files.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "transfer/source.hpp"

namespace transfer {

// Fills a buffer with the bytes from `offset` on. Called on reader threads, several at once. Throws
// Error{kIo, kFileTruncated, kInternal}, and soon after `stop` is set returns or throws anything.
using ReadCallback = std::function<void(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                                        const std::atomic<bool>& stop)>;

struct CallbackHints {
  std::uint64_t bytes;       // its length
  bool whole_pages;          // reads begin on multiples of kSourceAlignment and end there, or at
                             // the source's end, with a buffer that is as aligned
  std::uint64_t read_bytes;  // the largest read that it likes
  bool concurrent;           // see Source::wants_concurrency()
};

// `index` is its place among the sources of the call.
std::unique_ptr<Source> make_callback_source(ReadCallback read, const CallbackHints& hints,
                                             std::uint32_t index);

}  // namespace transfer
