#include "transfer/file_mapping.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "transfer/error.hpp"

namespace transfer {

FileMapping::FileMapping(const SourceFile& file, std::size_t index) : bytes_(file.bytes) {
  if (bytes_ == 0) return;
  void* memory = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.descriptor, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    const std::string what = "mapping source file " + std::to_string(index);
    if (error == ENOMEM) {
      throw Error(Code::kHostOutOfMemory, error,
                  what + ": there are no addresses for " + std::to_string(bytes_) + " bytes");
    }
    throw io_error(error, what, static_cast<std::int64_t>(index));
  }
  data_ = static_cast<std::byte*>(memory);
}

FileMapping::~FileMapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

FileMapping::FileMapping(FileMapping&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
}

std::vector<FileMapping> map_files(const std::vector<SourceFile>& files) {
  std::vector<FileMapping> mappings;
  mappings.reserve(files.size());
  for (std::size_t i = 0; i < files.size(); ++i) mappings.emplace_back(files[i], i);
  return mappings;
}

}  // namespace transfer
