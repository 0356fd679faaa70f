// Checks the results of CUDA calls.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "transfer/error.hpp"

namespace transfer {

// Returns the error code of a failed call.
inline Code code_of(cudaError_t status) {
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

// Throws if `status` is a failure. The message names the error, the call and its purpose.
inline void check(cudaError_t status, const char* call, const std::string& context = {}) {
  if (status == cudaSuccess) return;
  // Errors that are not sticky stay readable until they are fetched. A later check must not see
  // this one.
  (void)cudaGetLastError();
  std::string text = std::string(cudaGetErrorName(status)) + " from " + call;
  if (!context.empty()) text += " (" + context + ")";
  text += ": ";
  text += cudaGetErrorString(status);
  throw Error(code_of(status), static_cast<int>(status), text);
}

}  // namespace transfer
