// Whose turn it is in each slot of the staging ring.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "transfer/division.hpp"

namespace transfer {

// The chunks of run n pass through slot n modulo the number of slots. Readers enter a chunk when
// its slot is free, and fill it together; the last of them submits it; the first who then needs the
// slot waits for the device and retires the chunk. A reader that leaves early must have set `stop`
// and call wake_all(), since others may wait for its share.
class SlotTurns {
 public:
  // Waits for the chunk in a slot to land, and posts it. Throws what the device throws.
  using Retire = std::function<void(std::size_t chunk)>;

  // All references outlive this.
  SlotTurns(std::uint32_t slots, const Division& division, const std::atomic<bool>& stop,
            Retire retire);

  std::uint32_t slot_of(std::size_t chunk) const noexcept;

  // Waits until the chunk's slot is free for it. False where the call was stopped meanwhile.
  bool enter(std::size_t chunk);

  // Notes that one share of the chunk is there. True for the last of them: the caller submits the
  // chunk and then calls submitted().
  bool filled(std::size_t chunk);
  void submitted(std::size_t chunk);

  // Retires all chunks that are left, waiting for those that others still fill.
  void drain();

  void wake_all();

 private:
  // The turn of a slot that no chunk is left for.
  static constexpr std::size_t kNone = ~std::size_t{0};

  struct Slot {
    std::mutex mutex;  // held by whoever changes the next three, which may be looked at without
    std::condition_variable changed;
    std::atomic<std::size_t> turn{kNone};  // the chunk that the slot is for
    std::atomic<bool> submitted{false};
    std::atomic<bool> retiring{false};
    std::atomic<std::uint32_t> shares_left{0};
  };

  Slot& slot(std::size_t chunk) { return slots_[slot_of(chunk)]; }

  // The first chunk of a run, and the chunk that comes after another in its slot; kNone where there
  // is none.
  std::size_t first_of(std::size_t run) const noexcept;
  std::size_t after(std::size_t chunk) const noexcept;

  // Waits until the slot's turn is `turn`, or the call was stopped.
  void advance_to(Slot& slot, std::size_t turn);
  void begin_turn(Slot& slot, std::size_t chunk);

  std::vector<Slot> slots_;
  const Division& division_;
  std::vector<std::size_t> first_of_run_;
  const std::atomic<bool>& stop_;
  Retire retire_;
};

}  // namespace transfer
