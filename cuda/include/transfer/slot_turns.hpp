// Assigns the slots of the staging ring to chunks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "transfer/division.hpp"

namespace phi3::transfer {

// The chunks of run n pass through slot n modulo the number of slots. Readers enter a chunk when
// its slot is free, and fill it together. The last of them submits it. The first reader that then
// needs the slot waits for the device and retires the chunk. A reader that stops early must first
// set `stop` and then call wake_all(), because others may wait for its share.
class SlotTurns {
 public:
  // Waits until the chunk in a slot has landed, and reports that. Throws the errors of the device.
  using Retire = std::function<void(std::size_t chunk)>;

  // All references outlive this object.
  SlotTurns(std::uint32_t slots, const Division& division, const std::atomic<bool>& stop,
            Retire retire);

  std::uint32_t slot_of(std::size_t chunk) const noexcept;

  // Waits until the chunk's slot is free for it. Returns false if the call was stopped meanwhile.
  bool enter(std::size_t chunk);

  // Records that one share of the chunk is filled. Returns true for the last share: the caller then
  // submits the chunk and calls submitted().
  bool filled(std::size_t chunk);
  void submitted(std::size_t chunk);

  // Retires all remaining chunks. Waits for chunks that other readers still fill.
  void drain();

  void wake_all();

 private:
  // The turn of a slot that has no more chunks.
  static constexpr std::size_t kNone = ~std::size_t{0};

  struct Slot {
    std::mutex mutex;  // protects changes of turn, submitted and retiring; reads need no lock
    std::condition_variable changed;
    std::atomic<std::size_t> turn{kNone};  // the chunk that may use the slot
    std::atomic<bool> submitted{false};
    std::atomic<bool> retiring{false};
    std::atomic<std::uint32_t> shares_left{0};
  };

  Slot& slot(std::size_t chunk) { return slots_[slot_of(chunk)]; }

  // Return the first chunk of a run, and the next chunk in the slot of `chunk`; kNone if there is
  // none.
  std::size_t first_of(std::size_t run) const noexcept;
  std::size_t after(std::size_t chunk) const noexcept;

  // Retires chunks of the slot until its turn is `turn` or the call is stopped.
  void advance_to(Slot& slot, std::size_t turn);
  void begin_turn(Slot& slot, std::size_t chunk);

  std::vector<Slot> slots_;
  const Division& division_;
  std::vector<std::size_t> first_of_run_;
  const std::atomic<bool>& stop_;
  Retire retire_;
};

}  // namespace phi3::transfer
