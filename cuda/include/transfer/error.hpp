// The only exception type that leaves the engine.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace phi3::transfer {

// Stable numbers, which the Rust side decodes. Append only.
enum class Code : int {
  kInvalidArgument = 1,    // a request that breaks the engine's contract: the caller's bug
  kDeviceUnavailable = 2,  // no such device, no driver, or a build without CUDA
  kOutOfMemory = 3,        // the device cannot hold the allocation
  kHostOutOfMemory = 4,    // host memory for staging cannot be allocated
  kIo = 5,                 // reading the source failed; status is errno
  kFileTruncated = 6,      // the source is shorter than promised
  kDeviceFailure = 7,      // a device call failed; status is the device's own error number
  kCancelled = 8,          // the observer asked to stop
  kInternal = 9,           // anything that should not happen
  kForeignMemory = 10,     // descriptors are not the memory of this device that they should be
};

constexpr std::int64_t kUnknown = -1;

// The source, operation and lane of an error, by index; kUnknown if there is none or it is unknown.
struct ErrorSite {
  std::int64_t source = kUnknown;
  std::int64_t operation = kUnknown;
  std::int64_t lane = kUnknown;

  static ErrorSite of_source(std::int64_t index) { return {index, kUnknown, kUnknown}; }
  static ErrorSite of_operation(std::int64_t index) { return {kUnknown, index, kUnknown}; }
  static ErrorSite of_lane(std::int64_t index) { return {kUnknown, kUnknown, index}; }
};

// what() contains code, status, site and context, because only text crosses the language
// bridge.
class Error : public std::runtime_error {
 public:
  Error(Code code, int status, const std::string& context, const ErrorSite& site = {});

  Code code() const noexcept { return code_; }
  int status() const noexcept { return status_; }

  // Returns the same error, and fills in the parts of the site that are still unknown.
  Error at(const ErrorSite& site) const;

 private:
  Code code_;
  int status_;
  ErrorSite site_;
};

// Returns the error of a failed system call: kIo with errno and its text.
Error io_error(int error_number, const std::string& context, const ErrorSite& site);

// Calls `step`. If it throws an Error, adds the site that `site` returns.
template <class Step, class Site>
decltype(auto) with_site(const Site& site, Step&& step) {
  try {
    return step();
  } catch (const Error& error) {
    throw error.at(site());
  }
}

}  // namespace phi3::transfer
