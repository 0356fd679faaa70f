#include "device_guard.hpp"

#include <cuda.h>

#include <exception>
#include <map>
#include <mutex>
#include <string>

#include "check.hpp"

namespace phi3::transfer {
namespace {

// Driver functions without an equivalent in the runtime. The runtime looks them up, so that nothing
// here links to the driver.
struct Driver {
  decltype(&cuDeviceGet) device;
  decltype(&cuDevicePrimaryCtxRetain) retain_primary;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
};

template <class Function>
Function find(const char* name) {
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

const Driver& driver() {
  static const Driver functions{
      find<decltype(Driver::device)>("cuDeviceGet"),
      find<decltype(Driver::retain_primary)>("cuDevicePrimaryCtxRetain"),
      find<decltype(Driver::push)>("cuCtxPushCurrent"),
      find<decltype(Driver::pop)>("cuCtxPopCurrent"),
  };
  return functions;
}

// The driver and the runtime use the same error numbers.
void check_driver(CUresult result, const char* call) {
  check(static_cast<cudaError_t>(result), call);
}

// Retained once and never released, as the runtime does: buffers outlive the object that opened a
// device.
CUcontext primary_context(int ordinal) {
  static std::mutex mutex;
  // Never destroyed, because static objects may own buffers until later.
  static std::map<int, CUcontext>& contexts = *new std::map<int, CUcontext>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = contexts.find(ordinal);
  if (known != contexts.end()) return known->second;
  CUdevice device{};
  check_driver(driver().device(&device, ordinal), "cuDeviceGet");
  CUcontext context = nullptr;
  check_driver(driver().retain_primary(&context, device), "cuDevicePrimaryCtxRetain");
  contexts.emplace(ordinal, context);
  return context;
}

void enter(int ordinal) {
  check_driver(driver().push(primary_context(ordinal)), "cuCtxPushCurrent");
}

void leave() noexcept {
  CUcontext left = nullptr;
  (void)driver().pop(&left);
}

}  // namespace

DeviceGuard::DeviceGuard(int ordinal) { enter(ordinal); }

DeviceGuard::~DeviceGuard() { leave(); }

QuietDeviceGuard::QuietDeviceGuard(int ordinal) noexcept {
  try {
    enter(ordinal);
    current_ = true;
  } catch (const std::exception&) {
    // The current context stays unchanged.
  }
}

QuietDeviceGuard::~QuietDeviceGuard() {
  if (current_) leave();
}

}  // namespace phi3::transfer
