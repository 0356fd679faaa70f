// The only exception type that leaves the engine.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace transfer {

// Stable numbers: the Rust side decodes them. Append only.
enum class Code : int {
  kInvalidArgument = 1,    // a request that breaks the engine's contract: the caller's bug
  kDeviceUnavailable = 2,  // no such device, no driver, or a build without CUDA
  kOutOfMemory = 3,        // the device cannot hold the allocation
  kHostOutOfMemory = 4,    // host memory for staging cannot be had
  kIo = 5,                 // reading the source failed; status is errno
  kFileTruncated = 6,      // the source ended before the bytes that were promised
  kDeviceFailure = 7,      // a device call failed; status is the device's own error number
  kCancelled = 8,          // the observer asked to stop
  kInternal = 9,           // anything that should not happen
};

// In place of the source file, for an error that no source file has caused.
constexpr std::int64_t kNoFile = -1;

// what() contains code, status, source file and context, because only text crosses the language
// bridge.
class Error : public std::runtime_error {
 public:
  Error(Code code, int status, const std::string& context, std::int64_t file = kNoFile);

  Code code() const noexcept { return code_; }
  int status() const noexcept { return status_; }

 private:
  Code code_;
  int status_;
};

// Error of a failed system call: kIo with errno and its text.
Error io_error(int error_number, const std::string& context, std::int64_t file = kNoFile);

}  // namespace transfer
