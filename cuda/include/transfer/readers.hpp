// The reader threads of one call of the engine.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace phi3::transfer {

// Starting threads takes as long as many reads. Therefore they start while a call is still being
// prepared, and wait for its work.
class Readers {
 public:
  // Starts `count` threads, or fewer if the system refuses more. Each calls `warm_up`, which must
  // not throw, and then waits. Throws Error{kHostOutOfMemory} if the system refuses all threads.
  Readers(std::uint32_t count, const std::function<void()>& warm_up);
  // Joins the threads.
  ~Readers();
  Readers(const Readers&) = delete;
  Readers& operator=(const Readers&) = delete;

  std::uint32_t count() const noexcept { return static_cast<std::uint32_t>(threads_.size()); }

  // Waits in its destructor until the work is done: readers must not outlive the data that they
  // use.
  class Running {
   public:
    explicit Running(Readers& readers) : readers_(readers) {}
    ~Running() { readers_.join(); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

   private:
    Readers& readers_;
  };

  // Lets each thread call `work`, which must not throw, once with its number. May be called only
  // once.
  [[nodiscard]] Running begin(std::function<void(std::uint32_t)> work);

 private:
  // Starts a thread. Returns 0, or the system's error number.
  int start(const std::function<void()>& warm_up);
  void wait_for_work(std::uint32_t number);
  void release();
  void join();

  std::mutex mutex_;
  std::condition_variable released_;
  bool go_ = false;
  std::function<void(std::uint32_t)> work_;  // empty before begin()
  std::vector<std::thread> threads_;
};

}  // namespace phi3::transfer
