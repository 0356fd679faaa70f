// Checks the results of CUDA calls.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "transfer/error.hpp"

namespace phi3::transfer {

// Throws the error of a failed call. The message names the error, the call and its purpose. If the
// driver is missing or too old, the message starts with that.
[[noreturn]] void fail(cudaError_t status, const char* call, const std::string& context);

// Throws if `status` is a failure.
inline void check(cudaError_t status, const char* call, const std::string& context = {}) {
  if (status != cudaSuccess) fail(status, call, context);
}

}  // namespace phi3::transfer
