// Which device a thread works on.
#pragma once

namespace transfer {

// Makes a device's primary context current for a scope, and afterwards what was current before,
// also where that was nothing. cudaSetDevice() would make a context on the device that it goes back
// to, which is the first GPU for a thread that never chose one.
class DeviceGuard {
 public:
  // Creates the context where the process has none on that device yet. Throws
  // Error{kDeviceUnavailable, kOutOfMemory, kDeviceFailure}.
  explicit DeviceGuard(int ordinal);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
};

// The same for destructors, which cannot report: where the driver has shut down already, it does
// nothing.
class QuietDeviceGuard {
 public:
  explicit QuietDeviceGuard(int ordinal) noexcept;
  ~QuietDeviceGuard();
  QuietDeviceGuard(const QuietDeviceGuard&) = delete;
  QuietDeviceGuard& operator=(const QuietDeviceGuard&) = delete;

 private:
  bool current_ = false;
};

}  // namespace transfer
