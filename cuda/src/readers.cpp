#include "transfer/readers.hpp"

#include <system_error>
#include <utility>

#include "transfer/error.hpp"

namespace transfer {

Readers::Readers(std::uint32_t count, const std::function<void()>& warm_up) {
  threads_.reserve(count);
  try {
    while (threads_.size() < count) {
      const auto number = static_cast<std::uint32_t>(threads_.size());
      threads_.emplace_back([this, warm_up, number] {
        warm_up();
        wait_for_work(number);
      });
    }
  } catch (const std::system_error& error) {
    // One is enough to do the work.
    if (threads_.empty()) {
      throw Error(Code::kInternal, error.code().value(), "no reader thread can be started");
    }
  } catch (...) {
    join();
    throw;
  }
}

Readers::~Readers() { join(); }

Readers::Running Readers::begin(std::function<void(std::uint32_t)> work) {
  work_ = std::move(work);
  release();
  return Running(*this);
}

void Readers::wait_for_work(std::uint32_t number) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    released_.wait(lock, [this] { return go_; });
  }
  if (work_) work_(number);
}

void Readers::release() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    go_ = true;
  }
  released_.notify_all();
}

void Readers::join() {
  release();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace transfer
