#include "check.hpp"

#include <dlfcn.h>

#include <cerrno>
#include <system_error>

namespace phi3::transfer {
namespace {

Code code_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return Code::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorStubLibrary:
      return Code::kDeviceUnavailable;
    default:
      return Code::kDeviceFailure;
  }
}

// Returns a version of CUDA as text: 12020 is 12.2.
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Explains why the driver's library cannot be loaded. `error` is the message of the dynamic linker.
// It can also be about a library that exists: one that is damaged, or one that needs another
// library that is missing.
std::string missing_driver(const std::string& error) {
  const std::string reason = std::generic_category().message(ENOENT);
  const bool ends = error.size() >= reason.size() &&
                    error.compare(error.size() - reason.size(), reason.size(), reason) == 0;
  if (ends && error.rfind("libcuda.so.1:", 0) == 0) {
    return "no NVIDIA driver: libcuda.so.1 not found";
  }
  return "the NVIDIA driver cannot be loaded: " + error;
}

// Explains cudaErrorInsufficientDriver: the runtime reports it both without a driver and with one
// that is too old.
std::string driver_problem() {
  // The runtime loads the same library under the same name. It is never closed, as in the runtime.
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    const char* error = dlerror();
    return missing_driver(error != nullptr ? error : "libcuda.so.1");
  }
  int supported = 0;
  int needed = 0;
  (void)cudaDriverGetVersion(&supported);
  (void)cudaRuntimeGetVersion(&needed);
  if (supported == 0) return "the NVIDIA driver cannot be used: libcuda.so.1 reports no version";
  return "the NVIDIA driver is too old: it supports CUDA " + version_text(supported) +
         ", and this build needs CUDA " + version_text(needed);
}

}  // namespace

void fail(cudaError_t status, const char* call, const std::string& context) {
  std::string failed = std::string(cudaGetErrorName(status)) + " from " + call;
  if (!context.empty()) failed += " (" + context + ")";
  const std::string text = status == cudaErrorInsufficientDriver
                               ? driver_problem() + " (" + failed + ")"
                               : failed + ": " + cudaGetErrorString(status);
  // Errors that are not sticky stay readable until they are fetched. A later check must not see
  // this one.
  (void)cudaGetLastError();
  throw Error(code_of(status), static_cast<int>(status), text);
}

}  // namespace phi3::transfer
