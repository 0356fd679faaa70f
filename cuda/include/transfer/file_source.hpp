// Files as sources.
#pragma once

#include <cstdint>
#include <memory>

#include "transfer/open_file.hpp"
#include "transfer/source.hpp"

namespace transfer {

enum class Io : std::uint32_t {
  kRead = 0,    // positioned reads through the page cache
  kMapped = 1,  // copies from a mapping of the file
  kDirect = 2,  // O_DIRECT, past the page cache; kRead where the file system refuses
  kAuto = 3,    // for each range, kRead where the page cache has it and kDirect where not
};

// `files` is how many files the call reads: with kAuto, the places where they ask the page cache
// before the first read are as many for a model of many files as for one of one. Throws Error{kIo,
// kHostOutOfMemory} where a mapping cannot be made.
std::unique_ptr<Source> open_file_source(Io io, const OpenFile& file, std::size_t files);

}  // namespace transfer
