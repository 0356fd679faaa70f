#include "transfer/routing.hpp"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <utility>

namespace phi3::transfer {
namespace {

// Whether all lanes can take the chunk from one device. That device holds one range of the chunk,
// so every lane must need this range. Kernels read from it, so the segments must be aligned.
bool can_be_carried(const Schedule& schedule, const Chunk& chunk) {
  const View<Part> parts = schedule.parts_of(chunk);
  const View<Segment> segments = schedule.segments_of(chunk);
  return std::all_of(parts.begin(), parts.end(),
                     [&](const Part& part) {
                       return part.begin == parts[0].begin && part.end == parts[0].end;
                     }) &&
         std::all_of(segments.begin(), segments.end(), [](const Segment& segment) {
           return segment.chunk_offset % kPartAlignment == 0;
         });
}

class Router {
 public:
  Router(Schedule& schedule, const Links& links)
      : schedule_(schedule), links_(links), carried_(links.takes_from.size()) {}

  void choose_carrier(Chunk& chunk) {
    const View<Part> parts = schedule_.parts_of(chunk);
    std::uint32_t best = kNoCarrier;
    if (can_be_carried(schedule_, chunk)) {
      // If two links are equal, prefer a lane that needs the bytes to one that only lends its link.
      for (const Part& part : parts) consider(part.lane, parts, best);
      for (std::uint32_t lane = links_.destinations; lane < carried_.size(); ++lane) {
        consider(lane, parts, best);
      }
    }
    const bool is_own = parts.size() == 1 && best == parts[0].lane;
    if (best == kNoCarrier || is_own) {
      for (const Part& part : parts) carried_[part.lane] += part.end - part.begin;
      return;
    }
    chunk.carrier = best;
    carried_[best] += parts[0].end - parts[0].begin;
    schedule_.lanes[best].kernels.converts = true;
  }

 private:
  // Replaces `best` if all lanes of the parts can take bytes from `lane` and its link has carried
  // less.
  void consider(std::uint32_t lane, View<Part> parts, std::uint32_t& best) const {
    const bool reaches_all = std::all_of(parts.begin(), parts.end(), [&](const Part& part) {
      return part.lane == lane || links_.takes_from[part.lane][lane];
    });
    if (reaches_all && (best == kNoCarrier || carried_[lane] < carried_[best])) best = lane;
  }

  Schedule& schedule_;
  const Links& links_;
  std::vector<std::uint64_t> carried_;  // bytes of each link
};

// The bytes of one link.
struct Flow {
  std::uint64_t total = 0;
  std::uint64_t done = 0;
  std::deque<const Chunk*> waiting;  // chunks whose first bytes go over this link, in order

  // Whether this link has a smaller fraction of its bytes than another one.
  bool is_behind(const Flow& other) const {
    return static_cast<double>(done) * static_cast<double>(other.total) <
           static_cast<double>(other.done) * static_cast<double>(total);
  }
};

// Returns the link that gets its next chunk first; null if no chunk is left.
Flow* next_flow(std::vector<Flow>& flows) {
  Flow* next = nullptr;
  for (Flow& flow : flows) {
    if (flow.waiting.empty()) continue;
    if (next == nullptr || flow.is_behind(*next)) next = &flow;
  }
  return next;
}

// Calls `use` with each link that carries bytes of the chunk, and their number.
template <class Use>
void for_each_link(const Schedule& schedule, const Chunk& chunk, Use&& use) {
  for (const Part& part : schedule.parts_of(chunk)) {
    const bool is_carried = chunk.carrier != kNoCarrier;
    use(is_carried ? chunk.carrier : part.lane, part.end - part.begin);
    if (is_carried) return;
  }
}

void interleave(Schedule& schedule, std::size_t links) {
  std::vector<Flow> flows(links);
  for (const Chunk& chunk : schedule.chunks) {
    Flow* first = nullptr;
    for_each_link(schedule, chunk, [&](std::uint32_t link, std::uint64_t bytes) {
      flows[link].total += bytes;
      if (first == nullptr) first = &flows[link];
    });
    first->waiting.push_back(&chunk);
  }
  std::vector<Chunk> ordered;
  ordered.reserve(schedule.chunks.size());
  for (Flow* flow = next_flow(flows); flow != nullptr; flow = next_flow(flows)) {
    const Chunk& chunk = *flow->waiting.front();
    flow->waiting.pop_front();
    for_each_link(schedule, chunk,
                  [&](std::uint32_t link, std::uint64_t bytes) { flows[link].done += bytes; });
    ordered.push_back(chunk);
  }
  schedule.chunks = std::move(ordered);
}

}  // namespace

void route(Schedule& schedule, const Links& links) {
  const std::size_t lanes = links.takes_from.size();
  if (lanes == 1) return;
  Router router(schedule, links);
  for (Chunk& chunk : schedule.chunks) router.choose_carrier(chunk);
  interleave(schedule, lanes);
}

std::vector<std::uint64_t> link_bytes(const Schedule& schedule) {
  std::vector<std::uint64_t> sums(schedule.lanes.size());
  for (const Chunk& chunk : schedule.chunks) {
    for_each_link(schedule, chunk,
                  [&](std::uint32_t link, std::uint64_t bytes) { sums[link] += bytes; });
  }
  return sums;
}

}  // namespace phi3::transfer
