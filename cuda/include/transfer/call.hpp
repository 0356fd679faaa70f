// A call of the engine while its readers run.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "transfer/call_clock.hpp"
#include "transfer/division.hpp"
#include "transfer/lane_call.hpp"
#include "transfer/op_findings.hpp"
#include "transfer/progress_board.hpp"
#include "transfer/schedule.hpp"
#include "transfer/scratch.hpp"
#include "transfer/slot_turns.hpp"
#include "transfer/source.hpp"
#include "transfer/timeline.hpp"

namespace phi3::transfer {

// A staging ring, divided into slots.
struct Staging {
  std::byte* data;
  std::uint32_t slots;
  std::uint64_t slot_bytes;
};

struct CallWork {
  const Schedule& schedule;
  const Division& division;
  const std::vector<std::unique_ptr<Source>>& sources;
  const std::vector<std::unique_ptr<LaneCall>>& lanes;
  OpFindings& findings;
  Staging staging;
};

class Call {
 public:
  // Records no timeline if `clock` is null. All references outlive this object.
  Call(const CallWork& work, const CallClock* clock, std::uint32_t readers);

  ProgressBoard& board() { return board_; }

  // Runs one reader: reads stretches, share by share, until none is left.
  void read_shares(std::uint32_t reader) noexcept;

  // Returns the steps that readers and devices recorded. For use after all readers are joined.
  std::vector<Span> timeline() const;

 private:
  bool stopped() const { return board_.stop().load(std::memory_order_relaxed); }

  // Executes a step, and records its times if there is a clock.
  template <typename Step>
  void timed(std::uint32_t reader, std::uint32_t lane, SpanKind kind, std::size_t chunk,
             Step&& step);

  void add_operations(Span& span) const;

  // Returns the address to which the chunk's first byte is read.
  std::byte* read_target(std::size_t index) const;
  void read_stretch(std::uint32_t reader, const Stretch& stretch);
  void read_share(std::uint32_t reader, const Share& share);
  void read(const Share& share, std::byte* out);
  void fill(const Share& share, std::byte* out);
  void gather(std::uint32_t reader, const Share& share, std::byte* slot);
  bool gather_straight(std::uint32_t reader, const Share& share, std::byte* slot);
  void gather_from_rows(std::uint32_t reader, const Share& share, std::byte* slot);
  void examine(const Share& share, const std::byte* bytes);
  void examine(const Segment& segment, const std::byte* bytes, std::uint64_t count,
               std::uint64_t offset);
  void submit(std::uint32_t reader, std::size_t index, const std::byte* bytes);
  void retire(std::size_t index);
  void finish(std::uint32_t reader);

  const CallWork& work_;
  const CallClock* clock_;
  std::vector<std::vector<Span>> spans_;  // one list for each reader
  std::vector<Scratch> scratch_;          // one for each reader
  std::vector<std::vector<iovec>> places_;
  ProgressBoard board_;
  SlotTurns turns_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> drained_{false};
};

}  // namespace phi3::transfer
