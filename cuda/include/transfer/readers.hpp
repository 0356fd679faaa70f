// Threads for one call of the engine.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace transfer {

// Starting threads takes as long as many reads: they are started while a call is still being
// prepared, and wait.
class Readers {
 public:
  // Each thread calls `warm_up`, which must not throw, before it waits. There are fewer than
  // `count` where the system refuses more. Throws Error{kHostOutOfMemory} where it refuses
  // all.
  Readers(std::uint32_t count, const std::function<void()>& warm_up);
  // Joins.
  ~Readers();
  Readers(const Readers&) = delete;
  Readers& operator=(const Readers&) = delete;

  std::uint32_t count() const noexcept { return static_cast<std::uint32_t>(threads_.size()); }

  // Waits until the work is done, on every way out: readers must not outlive what they work on.
  class Running {
   public:
    explicit Running(Readers& readers) : readers_(readers) {}
    ~Running() { readers_.join(); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

   private:
    Readers& readers_;
  };

  // Has each thread call `work`, which must not throw, once with its number. To be called once.
  [[nodiscard]] Running begin(std::function<void(std::uint32_t)> work);

 private:
  // 0, or why the system refused.
  int start(const std::function<void()>& warm_up);
  void wait_for_work(std::uint32_t number);
  void release();
  void join();

  std::mutex mutex_;
  std::condition_variable released_;
  bool go_ = false;
  std::function<void(std::uint32_t)> work_;  // empty where there is none
  std::vector<std::thread> threads_;
};

}  // namespace transfer
