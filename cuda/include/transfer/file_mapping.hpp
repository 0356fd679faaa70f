// A file's bytes as memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transfer/source.hpp"

namespace transfer {

// A shared mapping for reading. Pages of it that others cut off the file fault with SIGBUS.
class FileMapping {
 public:
  // Throws Error{kIo, kHostOutOfMemory}.
  FileMapping(const SourceFile& file, std::size_t index);
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

// Throws Error{kIo, kHostOutOfMemory} where one of them cannot be mapped.
std::vector<FileMapping> map_files(const std::vector<SourceFile>& files);

}  // namespace transfer
