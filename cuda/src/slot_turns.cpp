#include "transfer/slot_turns.hpp"

#include <utility>

namespace transfer {

SlotTurns::SlotTurns(std::uint32_t slots, const std::vector<std::uint32_t>& shares,
                     const std::atomic<bool>& stop, Retire retire)
    : slots_(slots), shares_(shares), stop_(stop), retire_(std::move(retire)) {
  for (std::size_t i = 0; i < slots_.size(); ++i) begin_turn(slots_[i], i);
}

void SlotTurns::begin_turn(Slot& slot, std::size_t chunk) {
  slot.turn = chunk;
  slot.submitted = false;
  if (chunk < shares_.size()) slot.shares_left.store(shares_[chunk]);
}

bool SlotTurns::enter(std::size_t chunk) {
  advance_to(slot_of(chunk), chunk);
  return !stop_.load(std::memory_order_relaxed);
}

bool SlotTurns::filled(std::size_t chunk) { return slot_of(chunk).shares_left.fetch_sub(1) == 1; }

void SlotTurns::submitted(std::size_t chunk) {
  Slot& slot = slot_of(chunk);
  {
    const std::lock_guard<std::mutex> lock(slot.mutex);
    slot.submitted = true;
  }
  slot.changed.notify_all();
}

void SlotTurns::drain() {
  const std::size_t end = shares_.size();
  for (std::size_t turn = end; turn < end + slots_.size(); ++turn) {
    advance_to(slot_of(turn), turn);
  }
}

void SlotTurns::wake_all() {
  for (Slot& slot : slots_) {
    // Whoever is about to wait has looked at `stop` under this lock.
    {
      const std::lock_guard<std::mutex> lock(slot.mutex);
    }
    slot.changed.notify_all();
  }
}

void SlotTurns::advance_to(Slot& slot, std::size_t turn) {
  std::unique_lock<std::mutex> lock(slot.mutex);
  while (slot.turn != turn && !stop_.load(std::memory_order_relaxed)) {
    if (!slot.submitted || slot.retiring) {
      slot.changed.wait(lock);
      continue;
    }
    slot.retiring = true;
    const std::size_t chunk = slot.turn;
    lock.unlock();
    retire_(chunk);
    lock.lock();
    slot.retiring = false;
    begin_turn(slot, chunk + slots_.size());
    slot.changed.notify_all();
  }
}

}  // namespace transfer
