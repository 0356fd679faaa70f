// What one call does on one lane.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/lane.hpp"
#include "transfer/schedule.hpp"
#include "transfer/view.hpp"

namespace transfer {

class LaneCall {
 public:
  // All references outlive this.
  LaneCall(Lane& lane, const LaneLoad& load, DeviceBuffer& dest, bool digest)
      : lane_(lane),
        load_(load),
        dest_(dest),
        digest_(digest),
        unit_left_(load.unit_bytes.size()) {}
  // Nothing of the call is in flight on the lane any more.
  ~LaneCall();
  LaneCall(const LaneCall&) = delete;
  LaneCall& operator=(const LaneCall&) = delete;

  // Has the device ready for the call. Throws Error{kOutOfMemory, kDeviceFailure,
  // kDeviceUnavailable}.
  void prepare(View<CopyOp> ops);
  void start_timeline(const CallClock& clock, std::size_t chunks);

  // Readers. All throw what the device throws.
  //
  // Makes the calling thread use the device.
  void bind_thread();
  // Where a chunk that is all of this part can be read to with no staging; null where it cannot.
  std::byte* destination(const Schedule& schedule, std::size_t chunk, const Part& part) const;
  // Queues a part of a chunk, which stands at `bytes`.
  void submit(std::uint32_t slot, const Schedule& schedule, std::size_t chunk, const Part& part,
              const std::byte* bytes);
  // Waits until the part that was submitted in a slot has landed.
  void retire(std::uint32_t slot, View<Segment> segments);
  void finish();

  // After the readers. settle() is for calls that finish() has not ended.
  void settle() noexcept;
  void append_spans(std::vector<Span>& out);
  // One an operation of the call; empty where nothing was tallied.
  std::vector<OpTally> tallies(std::size_t operations);

 private:
  Batch batch_of(const Schedule& schedule, std::size_t chunk, const Part& part) const;
  void landed(const Segment& segment);

  Lane& lane_;
  const LaneLoad& load_;
  DeviceBuffer& dest_;
  bool digest_;
  bool has_timeline_ = false;
  std::atomic<bool> idle_{false};
  OpTally* tallies_ = nullptr;                         // in the device's memory; null without any
  std::vector<std::atomic<std::uint64_t>> unit_left_;  // source bytes that have not landed
  std::vector<std::vector<Floats>> unit_floats_;
};

}  // namespace transfer
