// Where readers post what has landed and the caller hears of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "transfer/progress.hpp"
#include "transfer/segment.hpp"
#include "transfer/view.hpp"

namespace transfer {

class ProgressBoard {
 public:
  ProgressBoard(std::vector<std::uint64_t> unit_bytes, std::uint32_t readers);

  // Readers.
  void landed(View<Segment> segments);
  void failed(std::exception_ptr error) noexcept;  // the first one wins; stops all readers
  void reader_finished() noexcept;
  const std::atomic<bool>& stop() const noexcept { return stop_; }

  // The caller: reports to `observer` until every reader has finished. A false answer, or an
  // exception out of the observer, stops the readers.
  void watch(const Observer& observer);

  // After all readers are joined: throws what failed, or Error{kCancelled}.
  void rethrow() const;

 private:
  void advance_units();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> remaining_;  // bytes a unit still lacks
  Progress progress_{0, 0};
  std::uint32_t active_readers_;
  std::exception_ptr error_;
  bool cancelled_ = false;
  std::atomic<bool> stop_{false};
};

}  // namespace transfer
