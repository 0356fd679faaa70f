#include "transfer/readers.hpp"

#include <system_error>
#include <utility>

#include "transfer/error.hpp"

namespace phi3::transfer {

Readers::Readers(std::uint32_t count, const std::function<void()>& warm_up) {
  threads_.reserve(count);
  int refusal = 0;
  try {
    for (std::uint32_t i = 0; i < count; ++i) refusal = start(warm_up);
  } catch (...) {
    join();
    throw;
  }
  // One thread is enough to do the work.
  if (threads_.empty()) {
    throw Error(Code::kHostOutOfMemory, refusal, "no reader thread can be started");
  }
}

int Readers::start(const std::function<void()>& warm_up) {
  const std::uint32_t number = this->count();
  try {
    threads_.emplace_back([this, warm_up, number] {
      warm_up();
      wait_for_work(number);
    });
    return 0;
  } catch (const std::system_error& error) {
    return error.code().value();
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

}  // namespace phi3::transfer
