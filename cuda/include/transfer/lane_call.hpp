// The part of one call that concerns one lane.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transfer/call_clock.hpp"
#include "transfer/copy_op.hpp"
#include "transfer/lane.hpp"
#include "transfer/schedule.hpp"
#include "transfer/view.hpp"

namespace phi3::transfer {

class LaneCall {
 public:
  // All references outlive this object. `dest` is null if the lane only lends its link.
  LaneCall(Lane& lane, const LaneLoad& load, DeviceBuffer* dest, bool digest)
      : lane_(lane),
        load_(load),
        dest_(dest),
        digest_(digest),
        unit_left_(load.unit_bytes.size()) {}
  // Afterwards, nothing of the call is in flight on the lane.
  ~LaneCall();
  LaneCall(const LaneCall&) = delete;
  LaneCall& operator=(const LaneCall&) = delete;

  // Prepares the device for the call. Throws Error{kOutOfMemory, kDeviceFailure,
  // kDeviceUnavailable}.
  void prepare(View<CopyOp> ops);
  void start_timeline(const CallClock& clock, std::size_t chunks);

  // The following functions are for readers. All throw the errors of the device.
  //
  // Makes the calling thread use the device.
  void bind_thread();
  // Returns the address to which a chunk that consists of this part alone can be read without
  // staging; null if it must be staged.
  std::byte* destination(const Schedule& schedule, std::size_t chunk, const Part& part) const;
  // Whether submit() itself does the work on the part.
  bool works_in_submit() const noexcept { return lane_.queue().works_in_submit(); }
  // Queues a part of a chunk. `bytes` is the start of the chunk.
  void submit(std::uint32_t slot, const Schedule& schedule, std::size_t chunk, const Part& part,
              const std::byte* bytes);
  // Queues a copy of a part of a chunk to the lane's device, from where lanes take it.
  void carry(std::uint32_t slot, const Schedule& schedule, std::size_t chunk, const Part& part,
             const std::byte* bytes);
  // Queues a part of a chunk that another lane, or this one, carries.
  void take(std::uint32_t slot, const Schedule& schedule, std::size_t chunk, const Part& part,
            const LaneCall& carrier);
  // Waits until the part that was submitted or taken in a slot has landed.
  void retire(std::uint32_t slot, View<Segment> segments);
  void finish();

  // The following functions are for use after the readers. settle() is for calls without finish().
  void settle() noexcept;
  void append_spans(std::vector<Span>& out);
  // Returns one tally for each operation of the call; empty if nothing was tallied.
  std::vector<OpTally> tallies(std::size_t operations);

 private:
  Batch batch_of(const Schedule& schedule, std::size_t chunk, const Part& part) const;
  void landed(const Segment& segment);

  Lane& lane_;
  const LaneLoad& load_;
  DeviceBuffer* dest_;
  bool digest_;
  bool has_timeline_ = false;
  std::atomic<bool> idle_{false};
  OpTally* tallies_ = nullptr;  // in the device's memory; null if nothing is tallied
  std::vector<std::atomic<std::uint64_t>> unit_left_;  // source bytes that have not landed
  std::vector<std::vector<Floats>> unit_floats_;
};

}  // namespace phi3::transfer
