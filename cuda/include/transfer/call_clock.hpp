// The clock of a call.
#pragma once

#include <chrono>

namespace phi3::transfer {

// Measures the seconds since the start of a call.
class CallClock {
 public:
  CallClock() : origin_(std::chrono::steady_clock::now()) {}

  double seconds() const {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - origin_;
    return elapsed.count();
  }

 private:
  std::chrono::steady_clock::time_point origin_;
};

}  // namespace phi3::transfer
