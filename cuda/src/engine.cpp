#include "transfer/engine.hpp"

#include <algorithm>
#include <string>

#include "transfer/call.hpp"
#include "transfer/call_clock.hpp"
#include "transfer/division.hpp"
#include "transfer/error.hpp"
#include "transfer/readers.hpp"
#include "transfer/rounding.hpp"
#include "transfer/schedule.hpp"

namespace phi3::transfer {
namespace {

// Larger values would only cost memory: no machine copies faster with them.
constexpr std::uint32_t kMaxReaders = 256;
constexpr std::uint32_t kMaxDepth = 1024;
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{1} << 30;

using Sources = std::vector<std::unique_ptr<Source>>;
using Lanes = std::vector<std::unique_ptr<Lane>>;
using LaneCalls = std::vector<std::unique_ptr<LaneCall>>;

Bounds bounds_of(const Request& request, const std::vector<DeviceBuffer*>& dests,
                 std::size_t lanes) {
  Bounds bounds{{}, {}, lanes, request.units};
  for (const std::unique_ptr<Source>& source : request.sources) {
    bounds.source_bytes.push_back(source->bytes());
  }
  for (const DeviceBuffer* dest : dests) bounds.dest_bytes.push_back(dest->size());
  return bounds;
}

std::vector<std::uint64_t> read_bytes(const Sources& sources, std::uint64_t largest) {
  std::vector<std::uint64_t> out;
  for (const std::unique_ptr<Source>& source : sources) {
    out.push_back(std::min(largest, source->read_bytes()));
  }
  return out;
}

bool wants_concurrency(const Sources& sources) {
  return std::any_of(sources.begin(), sources.end(), [](const std::unique_ptr<Source>& source) {
    return source->wants_concurrency();
  });
}

bool fell_back(const Sources& sources) {
  return std::any_of(sources.begin(), sources.end(),
                     [](const std::unique_ptr<Source>& source) { return source->fell_back(); });
}

bool all_pinned(const Lanes& lanes) {
  return std::all_of(lanes.begin(), lanes.end(),
                     [](const std::unique_ptr<Lane>& lane) { return lane->pinned(); });
}

// Returns from which other lanes each lane with a destination can take bytes.
Links links_between(const Lanes& lanes, std::uint32_t destinations) {
  Links links{destinations, {}};
  for (const std::unique_ptr<Lane>& taker : lanes) {
    std::vector<bool> takes_from;
    for (const std::unique_ptr<Lane>& carrier : lanes) {
      takes_from.push_back(taker != carrier && taker->index() < destinations &&
                           taker->can_take_from(*carrier));
    }
    links.takes_from.push_back(std::move(takes_from));
  }
  return links;
}

LaneCalls prepare_lanes(const Lanes& lanes, Schedule& schedule, const Request& request,
                        const std::vector<DeviceBuffer*>& dests) {
  LaneCalls calls;
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    DeviceBuffer* const dest = i < dests.size() ? dests[i] : nullptr;
    schedule.lanes[i].kernels.digest = request.digest && dest != nullptr;
    calls.push_back(std::make_unique<LaneCall>(*lanes[i], schedule.lanes[i], dest, request.digest));
    calls.back()->prepare(request.ops);
  }
  return calls;
}

void start_timelines(const LaneCalls& lanes, const CallClock& clock, std::size_t chunks) {
  for (const std::unique_ptr<LaneCall>& lane : lanes) lane->start_timeline(clock, chunks);
}

// Returns the timeline, which is empty if it was not requested. Throws if the call failed.
std::vector<Span> timeline_or_failure(Call& call, bool requested) {
  std::vector<Span> timeline;
  try {
    if (requested) timeline = call.timeline();
  } catch (...) {
    // If the call failed too, its error is more useful.
    call.board().rethrow();
    throw;
  }
  call.board().rethrow();
  return timeline;
}

std::vector<OpReport> reports(View<CopyOp> ops, const Schedule& schedule,
                              const OpFindings& findings, const LaneCalls& lanes) {
  std::vector<std::vector<OpTally>> tallies;
  for (const std::unique_ptr<LaneCall>& lane : lanes) {
    tallies.push_back(lane->tallies(ops.size()));
  }
  std::vector<OpReport> out;
  out.reserve(ops.size());
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const CopyOp& op = ops[i];
    const std::vector<OpTally>& of_lane = tallies[op.lane];
    const OpTally tally = of_lane.empty() ? OpTally{} : of_lane[i];
    const std::uint32_t found_by = schedule.findings_of[i];
    out.push_back({static_cast<std::uint32_t>(i), op.lane, tally.non_finite,
                   op.source_bytes != 0 && findings.all_zero(found_by), findings.digest(found_by),
                   tally.digest});
  }
  return out;
}

}  // namespace

void EngineConfig::check() const {
  if (readers == 0 || std::max(readers, storage_readers) > kMaxReaders) {
    throw Error(Code::kInvalidArgument, 0,
                "reader threads must be from 1 to " + std::to_string(kMaxReaders));
  }
  if (depth == 0 || depth > kMaxDepth) {
    throw Error(Code::kInvalidArgument, 0,
                "staging depth must be from 1 to " + std::to_string(kMaxDepth));
  }
  if (chunk_bytes > kMaxChunkBytes) {
    throw Error(Code::kInvalidArgument, 0,
                "chunks must be at most " + std::to_string(kMaxChunkBytes) + " bytes");
  }
}

std::uint64_t EngineConfig::slot_bytes() const noexcept {
  // Room for aligned reads on both sides.
  return round_up(std::max(chunk_bytes, kMinChunkBytes), kSourceAlignment) + 2 * kSourceAlignment;
}

std::uint64_t EngineConfig::ring_bytes() const noexcept {
  return StagingRing::size_for(slot_bytes() * depth);
}

Engine::Engine(const std::vector<std::shared_ptr<const Device>>& devices, std::uint32_t helpers,
               std::unique_ptr<StagingRing> ring, const EngineConfig& config)
    : ring_(std::move(ring)), config_(config) {
  config_.check();
  if (devices.size() <= helpers) {
    throw Error(Code::kInvalidArgument, 0, "an engine needs at least one lane");
  }
  if (ring_->size() < config_.ring_bytes()) {
    throw Error(Code::kInvalidArgument, 0, "the staging ring is too small for the engine");
  }
  const QueueShape shape{config_.depth, config_.slot_bytes()};
  for (const std::shared_ptr<const Device>& device : devices) {
    const auto index = static_cast<std::uint32_t>(lanes_.size());
    lanes_.push_back(with_site(
        [&] { return ErrorSite::of_lane(index); },
        [&] { return std::make_unique<Lane>(device, index, devices.size() == 1, *ring_, shape); }));
  }
  links_ = links_between(lanes_, static_cast<std::uint32_t>(devices.size()) - helpers);
}

std::uint64_t Engine::conversion_bytes(std::size_t lane) const noexcept {
  return lane < lanes_.size() ? lanes_[lane]->conversion_bytes() : 0;
}

std::uint64_t Engine::stretch_bytes() const noexcept {
  std::uint64_t least = UINT64_MAX;
  for (const std::unique_ptr<Lane>& lane : lanes_) {
    least = std::min(least, lane->queue().stretch_bytes());
  }
  return least;
}

void Engine::bind_thread() {
  for (const std::unique_ptr<Lane>& lane : lanes_) {
    lane->with_queue([](Queue& queue) { queue.bind_thread(); });
  }
}

// The first use of a device by a thread takes time. An error is ignored here, because the thread
// binds again before its first read and then reports it.
void Engine::warm_up(const Request& request) noexcept {
  try {
    bind_thread();
  } catch (...) {
  }
  for (const std::unique_ptr<Source>& source : request.sources) source->prepare_reads();
}

Stats Engine::execute(const Request& request, const std::vector<DeviceBuffer*>& dests,
                      const Observer& observer) {
  if (dests.size() != destinations()) {
    throw Error(Code::kInvalidArgument, 0,
                std::to_string(dests.size()) + " destinations for " +
                    std::to_string(destinations()) + " lanes");
  }
  Schedule schedule =
      cut(request.ops, bounds_of(request, dests, lanes_.size()), config_.chunk_bytes);
  // If all lanes are host memory, stretch_bytes() is not 0, and there are no links to share.
  if (stretch_bytes() == 0) route(schedule, links_);
  const std::uint32_t wanted = wants_concurrency(request.sources)
                                   ? std::max(config_.readers, config_.storage_readers)
                                   : config_.readers;
  const Division division = divide(schedule, {read_bytes(request.sources, config_.read_bytes),
                                              stretch_bytes(), wanted, request.digest});
  // A small request needs few threads.
  Readers readers(static_cast<std::uint32_t>(std::min<std::size_t>(
                      wanted, std::max<std::size_t>(1, division.stretches.size()))),
                  [&] { warm_up(request); });
  OpFindings findings(request.ops.size(), request.digest);
  const LaneCalls lanes = prepare_lanes(lanes_, schedule, request, dests);
  const CallClock clock;
  if (request.timeline) start_timelines(lanes, clock, schedule.chunks.size());
  const double start = clock.seconds();
  const CallWork work{schedule, division, request.sources,
                      lanes,    findings, {ring_->data(), config_.depth, config_.slot_bytes()}};
  Call call(work, request.timeline ? &clock : nullptr, readers.count());
  {
    const Readers::Running running =
        readers.begin([&](std::uint32_t reader) { call.read_shares(reader); });
    call.board().watch(observer);
  }
  const double end = clock.seconds();
  for (const std::unique_ptr<LaneCall>& lane : lanes) lane->settle();
  std::vector<Span> timeline = timeline_or_failure(call, request.timeline);
  return {
      schedule.source_bytes,
      schedule.chunks.size(),
      wanted,
      end - start,
      fell_back(request.sources),
      all_pinned(lanes_),
      link_bytes(schedule),
      std::move(timeline),
      reports(request.ops, schedule, findings, lanes),
  };
}

}  // namespace phi3::transfer
