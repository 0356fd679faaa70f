// Collects the progress of readers and reports it to the caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "transfer/progress.hpp"
#include "transfer/segment.hpp"
#include "transfer/view.hpp"

namespace phi3::transfer {

class ProgressBoard {
 public:
  ProgressBoard(std::vector<std::uint64_t> unit_bytes, std::size_t lanes, std::uint32_t readers);

  // The following functions are for readers.
  // `bytes` are the source bytes of the segments. Bytes that several lanes need count once.
  void landed(View<Segment> segments, std::uint64_t bytes);
  // Keeps the first error, and stops all readers.
  void report_failure(std::exception_ptr error) noexcept;
  void reader_finished() noexcept;
  const std::atomic<bool>& stop() const noexcept { return stop_; }

  // For the caller: reports to `observer` until every reader has finished. If the observer returns
  // false or throws, the readers stop.
  void watch(const Observer& observer);

  // Throws the first error, or Error{kCancelled}. For use after all readers are joined.
  void rethrow() const;

 private:
  void advance_units();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> remaining_;  // bytes of each unit, of all lanes, that have not landed
  Progress progress_;
  std::uint32_t active_readers_;
  std::exception_ptr error_;
  bool cancelled_ = false;
  std::atomic<bool> stop_{false};
};

}  // namespace phi3::transfer
