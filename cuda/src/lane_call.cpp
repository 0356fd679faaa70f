#include "transfer/lane_call.hpp"

namespace phi3::transfer {

LaneCall::~LaneCall() {
  settle();
  if (!has_timeline_) return;
  lane_.with_queue([](Queue& queue) { queue.end_timeline(); });
}

void LaneCall::prepare(View<CopyOp> ops) {
  const bool tallies = !load_.kernels.floats.empty() || load_.kernels.digest;
  if (tallies) {
    tallies_ = lane_.with_queue([&](Queue& queue) { return queue.open_tallies(ops.size()); });
    unit_floats_.resize(load_.unit_bytes.size());
    for (std::size_t unit = 0; unit < unit_left_.size(); ++unit) {
      unit_left_[unit] = load_.unit_bytes[unit];
    }
    for (std::size_t i = 0; i < ops.size(); ++i) {
      const CopyOp& op = ops[i];
      if (op.lane != lane_.index() || op.floats == FloatFormat::kNone || op.dest_bytes == 0) {
        continue;
      }
      unit_floats_[op.unit].push_back({op.floats, dest_->data() + op.dest_offset,
                                       op.dest_bytes / float_bytes(op.floats),
                                       &tallies_[i].non_finite});
    }
  }
  lane_.with_queue([&](Queue& queue) {
    lane_.device().load_code(load_.kernels);
    if (load_.kernels.converts) queue.prepare_conversions();
  });
}

void LaneCall::start_timeline(const CallClock& clock, std::size_t chunks) {
  lane_.with_queue([&](Queue& queue) { queue.start_timeline(clock, chunks); });
  has_timeline_ = true;
}

void LaneCall::bind_thread() {
  lane_.with_queue([](Queue& queue) { queue.bind_thread(); });
}

Batch LaneCall::batch_of(const Schedule& schedule, std::size_t chunk, const Part& part) const {
  const View<Segment> segments = schedule.segments_of(part);
  return {segments.data, part.segment_count, part.begin, part.end,
          dest_->data(), tallies_,           digest_,    chunk};
}

std::byte* LaneCall::destination(const Schedule& schedule, std::size_t chunk,
                                 const Part& part) const {
  return lane_.queue().destination(batch_of(schedule, chunk, part));
}

void LaneCall::submit(std::uint32_t slot, const Schedule& schedule, std::size_t chunk,
                      const Part& part, const std::byte* bytes) {
  const Batch batch = batch_of(schedule, chunk, part);
  lane_.on_reader(batch.segments->op, [&](Queue& queue) { queue.submit(slot, batch, bytes); });
}

void LaneCall::retire(std::uint32_t slot, View<Segment> segments) {
  lane_.on_reader(segments[0].op, [&](Queue& queue) { queue.await(slot); });
  if (tallies_ == nullptr) return;
  for (const Segment& segment : segments) landed(segment);
}

void LaneCall::carry(std::uint32_t slot, const Schedule& schedule, std::size_t chunk,
                     const Part& part, const std::byte* bytes) {
  lane_.on_reader(schedule.segments_of(part)[0].op,
                  [&](Queue& queue) { queue.carry(slot, {part.begin, part.end, chunk}, bytes); });
}

void LaneCall::take(std::uint32_t slot, const Schedule& schedule, std::size_t chunk,
                    const Part& part, const LaneCall& carrier) {
  const Batch batch = batch_of(schedule, chunk, part);
  lane_.on_reader(batch.segments->op,
                  [&](Queue& queue) { queue.take(slot, batch, carrier.lane_.queue()); });
}

// When the last bytes of a unit have landed, counts its floats together: a launch for each chunk
// would cost readers more time than the device.
void LaneCall::landed(const Segment& segment) {
  const std::uint64_t before = unit_left_[segment.unit].fetch_sub(segment.source_bytes);
  if (before != segment.source_bytes) return;
  lane_.on_reader(segment.op,
                  [&](Queue& queue) { queue.count_floats(unit_floats_[segment.unit]); });
}

void LaneCall::finish() {
  lane_.with_queue([](Queue& queue) { queue.finish(); });
  idle_ = true;
}

void LaneCall::settle() noexcept {
  if (idle_.exchange(true)) return;
  lane_.with_queue([](Queue& queue) { queue.settle(); });
}

void LaneCall::append_spans(std::vector<Span>& out) {
  const std::size_t first = out.size();
  lane_.with_queue([&](Queue& queue) { queue.append_spans(out); });
  for (std::size_t i = first; i < out.size(); ++i) out[i].lane = lane_.index();
}

std::vector<OpTally> LaneCall::tallies(std::size_t operations) {
  if (tallies_ == nullptr) return {};
  return lane_.with_queue([&](Queue& queue) { return queue.read_tallies(operations); });
}

}  // namespace phi3::transfer
