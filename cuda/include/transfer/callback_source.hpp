// Sources that are not files, read through callbacks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "transfer/source.hpp"

namespace phi3::transfer {

// Fills a buffer with the bytes from `offset` on. Several reader threads call it at once. Throws
// Error{kIo, kFileTruncated, kInternal}. Soon after `stop` is set, it returns or throws anything.
using ReadCallback = std::function<void(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                                        const std::atomic<bool>& stop)>;

struct CallbackHints {
  std::uint64_t bytes;  // length of the source
  bool whole_pages;  // whether reads begin on multiples of kSourceAlignment, end on a multiple or
                     // at the source's end, and have a buffer with the same alignment
  std::uint64_t read_bytes;  // preferred maximum of bytes in one read
  bool concurrent;           // see Source::wants_concurrency()
};

// `index` is the position among the sources of the call.
std::unique_ptr<Source> make_callback_source(ReadCallback read, const CallbackHints& hints,
                                             std::uint32_t index);

}  // namespace phi3::transfer
