// An open file, closed with its scope.
#pragma once

#include <unistd.h>

#include <utility>

namespace phi3::transfer {

// A file descriptor that it owns; negative if the file could not be opened.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(Descriptor&& other) noexcept : value_(other.value_) { other.value_ = -1; }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&&) = delete;

  int value() const noexcept { return value_; }

  // Gives up the file, without closing it.
  int release() noexcept { return std::exchange(value_, -1); }

 private:
  int value_;
};

}  // namespace phi3::transfer
