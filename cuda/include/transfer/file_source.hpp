// Files as sources.
#pragma once

#include <cstdint>
#include <memory>

#include "transfer/open_file.hpp"
#include "transfer/source.hpp"

namespace phi3::transfer {

enum class Io : std::uint32_t {
  kRead = 0,    // positioned reads through the page cache
  kMapped = 1,  // copies from a mapping of the file
  kDirect = 2,  // O_DIRECT, past the page cache; kRead if the file system refuses
  kAuto = 3,    // for each range: kRead if the page cache holds it, otherwise kDirect
};

// `files` is the number of files in the call. With kAuto, all files together make a fixed number of
// page-cache queries before the first read, so that a model in many files takes no longer than one
// in a single file. Throws Error{kIo, kHostOutOfMemory} if a mapping cannot be made.
std::unique_ptr<Source> open_file_source(Io io, const OpenFile& file, std::size_t files);

}  // namespace phi3::transfer
