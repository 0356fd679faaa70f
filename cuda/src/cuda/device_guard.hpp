// Makes a device current for a scope.
#pragma once

namespace phi3::transfer {

// Makes a device's primary context current for a scope, and then restores the context before it,
// even if there was none. Restoring with cudaSetDevice() would create a context on the previous
// device, which is the first GPU for a thread that never chose one.
class DeviceGuard {
 public:
  // Creates the context if the process has none on that device yet. Throws
  // Error{kDeviceUnavailable, kOutOfMemory, kDeviceFailure}.
  explicit DeviceGuard(int ordinal);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
};

// The same for destructors, which cannot report errors: does nothing if the driver has already shut
// down.
class QuietDeviceGuard {
 public:
  explicit QuietDeviceGuard(int ordinal) noexcept;
  ~QuietDeviceGuard();
  QuietDeviceGuard(const QuietDeviceGuard&) = delete;
  QuietDeviceGuard& operator=(const QuietDeviceGuard&) = delete;

 private:
  bool current_ = false;
};

}  // namespace phi3::transfer
