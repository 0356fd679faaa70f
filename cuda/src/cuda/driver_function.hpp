// Functions of the driver.
#pragma once

#include <cuda.h>

#include <string>

#include "check.hpp"

namespace phi3::transfer {

// Returns a function of the driver. The runtime looks it up, so that nothing here links to the
// driver. Throws Error{kDeviceUnavailable} if the driver does not have it.
template <class Function>
Function driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  constexpr unsigned kVersion = 12000;
  check(cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &found),
        "cudaGetDriverEntryPointByVersion", name);
#else
  check(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found),
        "cudaGetDriverEntryPoint", name);
#endif
  if (found != cudaDriverEntryPointSuccess) {
    throw Error(Code::kDeviceUnavailable, 0, std::string("the driver does not provide ") + name);
  }
  return reinterpret_cast<Function>(function);
}

// As check(): the driver and the runtime use the same error numbers.
inline void check_driver(CUresult result, const char* call, const std::string& context = {}) {
  check(static_cast<cudaError_t>(result), call, context);
}

}  // namespace phi3::transfer
