#include "transfer/slot_turns.hpp"

#include <utility>

#include "transfer/brief_wait.hpp"

namespace phi3::transfer {

SlotTurns::SlotTurns(std::uint32_t slots, const Division& division, const std::atomic<bool>& stop,
                     Retire retire)
    : slots_(slots), division_(division), stop_(stop), retire_(std::move(retire)) {
  for (std::size_t chunk = 0; chunk < division.run_of_chunk.size(); ++chunk) {
    if (division.run_of_chunk[chunk] == first_of_run_.size()) first_of_run_.push_back(chunk);
  }
  for (std::size_t i = 0; i < slots_.size(); ++i) begin_turn(slots_[i], first_of(i));
}

std::uint32_t SlotTurns::slot_of(std::size_t chunk) const noexcept {
  return static_cast<std::uint32_t>(division_.run_of_chunk[chunk] % slots_.size());
}

std::size_t SlotTurns::first_of(std::size_t run) const noexcept {
  return run < first_of_run_.size() ? first_of_run_[run] : kNone;
}

std::size_t SlotTurns::after(std::size_t chunk) const noexcept {
  const std::size_t run = division_.run_of_chunk[chunk];
  const std::size_t next = chunk + 1;
  const bool goes_on = next < division_.run_of_chunk.size() && division_.run_of_chunk[next] == run;
  return goes_on ? next : first_of(run + slots_.size());
}

void SlotTurns::begin_turn(Slot& slot, std::size_t chunk) {
  slot.turn = chunk;
  slot.submitted = false;
  if (chunk != kNone) slot.shares_left.store(division_.shares_of_chunk[chunk]);
}

bool SlotTurns::enter(std::size_t chunk) {
  advance_to(slot(chunk), chunk);
  return !stop_.load(std::memory_order_relaxed);
}

bool SlotTurns::filled(std::size_t chunk) { return slot(chunk).shares_left.fetch_sub(1) == 1; }

void SlotTurns::submitted(std::size_t chunk) {
  Slot& submitted = slot(chunk);
  {
    const std::lock_guard<std::mutex> lock(submitted.mutex);
    submitted.submitted = true;
  }
  submitted.changed.notify_all();
}

void SlotTurns::drain() {
  // Start with the oldest chunk.
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    advance_to(slots_[(first_of_run_.size() + i) % slots_.size()], kNone);
  }
}

void SlotTurns::wake_all() {
  for (Slot& slot : slots_) {
    // A reader that is about to wait has checked `stop` under this lock.
    {
      const std::lock_guard<std::mutex> lock(slot.mutex);
    }
    slot.changed.notify_all();
  }
}

void SlotTurns::advance_to(Slot& slot, std::size_t turn) {
  const auto over = [&] { return slot.turn == turn || stop_.load(std::memory_order_relaxed); };
  const auto ready = [&] { return over() || (slot.submitted && !slot.retiring); };
  for (;;) {
    wait_briefly(ready);
    std::size_t chunk = kNone;
    {
      std::unique_lock<std::mutex> lock(slot.mutex);
      slot.changed.wait(lock, ready);
      if (over()) return;
      slot.retiring = true;
      chunk = slot.turn;
    }
    retire_(chunk);
    {
      const std::lock_guard<std::mutex> lock(slot.mutex);
      slot.retiring = false;
      begin_turn(slot, after(chunk));
    }
    slot.changed.notify_all();
  }
}

}  // namespace phi3::transfer
