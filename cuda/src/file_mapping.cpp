#include "transfer/file_mapping.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "transfer/error.hpp"

namespace phi3::transfer {

FileMapping::FileMapping(const OpenFile& file) : bytes_(file.bytes) {
  if (bytes_ == 0) return;
  void* memory = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.descriptor, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    const std::string what = "mapping source file " + std::to_string(file.index);
    if (error == ENOMEM) {
      throw Error(
          Code::kHostOutOfMemory, error,
          what + ": the address space has no room for " + std::to_string(bytes_) + " bytes");
    }
    throw io_error(error, what, ErrorSite::of_source(file.index));
  }
  data_ = static_cast<std::byte*>(memory);
}

FileMapping::~FileMapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

FileMapping::FileMapping(FileMapping&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
}

}  // namespace phi3::transfer
