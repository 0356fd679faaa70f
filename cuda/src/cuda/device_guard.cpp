#include "device_guard.hpp"

#include <cuda.h>

#include <exception>
#include <map>
#include <mutex>

#include "check.hpp"
#include "driver_function.hpp"

namespace phi3::transfer {
namespace {

// Driver functions without an equivalent in the runtime.
struct Driver {
  decltype(&cuDeviceGet) device;
  decltype(&cuDevicePrimaryCtxRetain) retain_primary;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
};

const Driver& driver() {
  static const Driver functions{
      driver_function<decltype(Driver::device)>("cuDeviceGet"),
      driver_function<decltype(Driver::retain_primary)>("cuDevicePrimaryCtxRetain"),
      driver_function<decltype(Driver::push)>("cuCtxPushCurrent"),
      driver_function<decltype(Driver::pop)>("cuCtxPopCurrent"),
  };
  return functions;
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
