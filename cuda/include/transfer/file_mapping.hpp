// A file's bytes as memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transfer/open_file.hpp"

namespace phi3::transfer {

// A shared mapping for reading. If another process truncates the file, access to a lost page raises
// SIGBUS.
class FileMapping {
 public:
  // Throws Error{kIo, kHostOutOfMemory}.
  explicit FileMapping(const OpenFile& file);
  ~FileMapping();
  FileMapping(FileMapping&& other) noexcept;
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;
  FileMapping& operator=(FileMapping&&) = delete;

  // Null for an empty file.
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_;
};

}  // namespace phi3::transfer
