// A call of the engine, while readers work on it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "transfer/division.hpp"
#include "transfer/lane_call.hpp"
#include "transfer/op_findings.hpp"
#include "transfer/progress_board.hpp"
#include "transfer/schedule.hpp"
#include "transfer/slot_turns.hpp"
#include "transfer/source.hpp"
#include "transfer/timeline.hpp"

namespace transfer {

// The slots of a staging ring.
struct Staging {
  std::byte* data;
  std::uint32_t slots;
  std::uint64_t slot_bytes;
};

struct Work {
  const Schedule& schedule;
  const Division& division;
  const std::vector<std::unique_ptr<Source>>& sources;
  const std::vector<std::unique_ptr<LaneCall>>& lanes;
  OpFindings& findings;
  Staging staging;
};

class Call {
 public:
  // Without a clock no timeline is noted. All references outlive this.
  Call(const Work& work, const CallClock* clock, std::uint32_t readers);

  ProgressBoard& board() { return board_; }

  // One reader: takes the next stretch, share by share: waits for its slot, fills it; until none
  // is left.
  void read_shares(std::uint32_t reader) noexcept;

  // After all readers are joined: what they noted, and what the devices did.
  std::vector<Span> timeline() const;

 private:
  bool stopped() const { return board_.stop().load(std::memory_order_relaxed); }

  // Notes how long a step took, where a timeline is asked for.
  template <typename Step>
  void timed(std::uint32_t reader, std::uint32_t lane, SpanKind kind, std::size_t chunk,
             Step&& step);

  // Where the chunk's first byte is read to.
  std::byte* landing(std::size_t index) const;
  void read_stretch(std::uint32_t reader, const Stretch& stretch);
  void take(std::uint32_t reader, const Share& share);
  void fill(const Share& share, std::byte* out);
  void examine(const Share& share, const std::byte* bytes);
  void retire(std::size_t index);
  void finish(std::uint32_t reader);

  const Work& work_;
  const CallClock* clock_;
  std::vector<std::vector<Span>> spans_;  // one list a reader
  ProgressBoard board_;
  SlotTurns turns_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> drained_{false};
};

}  // namespace transfer
