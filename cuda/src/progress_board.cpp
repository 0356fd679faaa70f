#include "transfer/progress_board.hpp"

#include <chrono>
#include <utility>

#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

// The longest delay until a cancellation is noticed, if no unit finishes.
constexpr std::chrono::milliseconds kHeartbeat{20};

}  // namespace

ProgressBoard::ProgressBoard(std::vector<std::uint64_t> unit_bytes, std::size_t lanes,
                             std::uint32_t readers)
    : remaining_(std::move(unit_bytes)),
      progress_{0, 0, std::vector<std::uint64_t>(lanes)},
      active_readers_(readers) {
  advance_units();
}

void ProgressBoard::advance_units() {
  while (progress_.units_done < remaining_.size() && remaining_[progress_.units_done] == 0) {
    progress_.units_done += 1;
  }
}

void ProgressBoard::landed(View<Segment> segments, std::uint64_t bytes) {
  bool unit_finished = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Segment& segment : segments) {
      remaining_[segment.unit] -= segment.source_bytes;
      progress_.lane_bytes[segment.lane] += segment.source_bytes;
    }
    progress_.bytes_done += bytes;
    const std::uint32_t before = progress_.units_done;
    advance_units();
    unit_finished = progress_.units_done != before;
  }
  if (unit_finished) changed_.notify_one();
}

void ProgressBoard::report_failure(std::exception_ptr error) noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::move(error);
  }
  stop_.store(true);
  changed_.notify_one();
}

void ProgressBoard::reader_finished() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    active_readers_ -= 1;
  }
  changed_.notify_one();
}

void ProgressBoard::watch(const Observer& observer) {
  std::unique_lock<std::mutex> lock(mutex_);
  Progress reported{0, 0, progress_.lane_bytes};
  for (bool readers_left = true; readers_left;) {
    changed_.wait_for(lock, kHeartbeat, [&] {
      return active_readers_ == 0 || progress_.units_done != reported.units_done;
    });
    // Read under the same lock as the progress, so that the last report is complete.
    readers_left = active_readers_ != 0;
    reported = progress_;
    if (stop_.load()) continue;
    // Readers continue to report while the observer runs.
    lock.unlock();
    bool go_on = false;
    try {
      go_on = observer(reported);
    } catch (...) {
      report_failure(std::current_exception());
    }
    lock.lock();
    if (!go_on) {
      cancelled_ = true;
      stop_.store(true);
    }
  }
}

void ProgressBoard::rethrow() const {
  if (error_) std::rethrow_exception(error_);
  if (cancelled_) throw Error(Code::kCancelled, 0, "the observer asked to stop");
}

}  // namespace phi3::transfer
