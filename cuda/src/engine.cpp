#include "transfer/engine.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>

#include "transfer/error.hpp"
#include "transfer/progress_board.hpp"
#include "transfer/schedule.hpp"

namespace transfer {
namespace {

// More would only cost memory: no machine copies faster with more.
constexpr std::uint32_t kMaxReaders = 256;
constexpr std::uint32_t kMaxDepth = 64;
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{1} << 30;

constexpr std::uint64_t kPage = 4096;

// A chunk's place in a slot until it has landed.
constexpr std::size_t kNothing = SIZE_MAX;

// The tallies of a call, in device memory, and the digests of what was read.
class Ledger {
 public:
  Ledger(const Device& device, const Request& request, const Schedule& schedule,
         const DeviceBuffer& dest)
      : digest_(request.digest),
        source_(request.digest ? request.ops.size() : 0),
        unit_left_(schedule.unit_bytes.size()),
        unit_halves_(schedule.unit_bytes.size()) {
    const bool counts = std::any_of(request.ops.begin(), request.ops.end(),
                                    [](const CopyOp& op) { return op.halves; });
    if (!counts && !digest_) return;
    tallies_ = device.allocate(request.ops.size() * sizeof(OpTally));
    tallies_->clear();
    for (std::size_t unit = 0; unit < unit_left_.size(); ++unit) {
      unit_left_[unit] = schedule.unit_bytes[unit];
    }
    for (std::size_t i = 0; i < request.ops.size(); ++i) {
      const CopyOp& op = request.ops[i];
      if (!op.halves || op.dest_bytes == 0) continue;
      const auto* data = reinterpret_cast<const std::uint16_t*>(dest.data() + op.dest_offset);
      unit_halves_[op.unit].push_back({data, op.dest_bytes / 2, &tallies()[i].non_finite});
    }
  }

  // Has the last bytes of a unit looked at together: a launch a chunk would cost readers more than
  // the device.
  void landed(const Segment& segment, Lane& lane) {
    if (tallies_ == nullptr) return;
    const std::uint64_t before = unit_left_[segment.unit].fetch_sub(segment.source_bytes);
    if (before == segment.source_bytes) lane.landed(unit_halves_[segment.unit]);
  }

  bool digest() const { return digest_; }

  OpTally* tallies() const {
    return tallies_ == nullptr ? nullptr : reinterpret_cast<OpTally*>(tallies_->data());
  }

  void read(const Segment& segment, const Digest& digest) {
    source_[segment.op].sum.fetch_add(digest.sum, std::memory_order_relaxed);
    source_[segment.op].mix.fetch_add(digest.mix, std::memory_order_relaxed);
  }

  // After all has landed.
  std::vector<OpReport> reports(std::size_t operations) const {
    std::vector<OpReport> out(operations, OpReport{});
    if (tallies_ == nullptr) return out;
    std::vector<OpTally> tallies(operations);
    tallies_->read(0, reinterpret_cast<std::byte*>(tallies.data()), operations * sizeof(OpTally));
    for (std::size_t i = 0; i < operations; ++i) {
      out[i].non_finite = tallies[i].non_finite;
      out[i].device = tallies[i].digest;
      if (digest_) out[i].source = {source_[i].sum.load(), source_[i].mix.load()};
    }
    return out;
  }

 private:
  struct SharedDigest {
    std::atomic<std::uint64_t> sum{0};
    std::atomic<std::uint64_t> mix{0};
  };

  bool digest_;
  std::vector<SharedDigest> source_;
  std::unique_ptr<DeviceBuffer> tallies_;
  std::vector<std::atomic<std::uint64_t>> unit_left_;  // source bytes that have not landed
  std::vector<std::vector<Halves>> unit_halves_;
};

// Digests the segments of a chunk while they are read.
class ChunkDigests final : public Reading {
 public:
  explicit ChunkDigests(const Batch& batch) : batch_(batch), digests_(batch.count) {}

  // Pieces can be digested apart only where they meet segments at whole words.
  bool can_work_on_pieces() const {
    return std::all_of(batch_.segments, batch_.segments + batch_.count, [](const Segment& segment) {
      return segment.chunk_offset % kDigestWord == 0;
    });
  }

  void restart() override { std::fill(digests_.begin(), digests_.end(), Digest{0, 0}); }

  void piece(std::uint64_t offset, std::uint64_t bytes, const std::byte* data) override {
    for (std::uint32_t i = 0; i < batch_.count; ++i) {
      const Segment& segment = batch_.segments[i];
      const std::uint64_t begin = std::max(offset, segment.chunk_offset);
      const std::uint64_t end =
          std::min(offset + bytes, segment.chunk_offset + segment.source_bytes);
      if (begin >= end) continue;
      digests_[i] += digest_piece(reinterpret_cast<const std::uint8_t*>(data + (begin - offset)),
                                  end - begin, segment.op_offset + (begin - segment.chunk_offset));
    }
  }

  void post(Ledger& ledger) const {
    for (std::uint32_t i = 0; i < batch_.count; ++i) ledger.read(batch_.segments[i], digests_[i]);
  }

 private:
  Batch batch_;
  std::vector<Digest> digests_;
};

class Call {
 public:
  Call(const Schedule& schedule, const Source& source, DeviceBuffer& dest, Ledger& ledger,
       const CallClock* timeline, std::uint32_t readers)
      : timeline_(timeline),
        spans_(readers),
        schedule_(schedule),
        source_(source),
        dest_(dest),
        ledger_(ledger),
        board_(schedule.unit_bytes, readers) {}

  ProgressBoard& board() { return board_; }

  std::vector<Span>& spans_of(std::uint32_t reader) { return spans_[reader]; }

  // After all readers are joined: what they noted, and what their lanes did.
  std::vector<Span> take_timeline(const std::vector<std::unique_ptr<Lane>>& lanes) const {
    std::vector<Span> out;
    for (std::uint32_t lane = 0; lane < spans_.size(); ++lane) {
      for (Span span : spans_[lane]) {
        span.lane = lane;
        out.push_back(span);
      }
      lanes[lane]->take_spans(lane, out);
    }
    return out;
  }

  // One reader: takes the next chunk, fills a free slot, queues it; until none is left.
  void read_chunks(Lane& lane, std::vector<Span>& spans) noexcept {
    try {
      lane.bind_thread();
      std::vector<std::size_t> in_slot(lane.depth(), kNothing);
      std::uint32_t slot = 0;
      while (!board_.stop().load(std::memory_order_relaxed)) {
        const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
        if (index >= schedule_.chunks.size()) break;
        timed(spans, SpanKind::kWait, index, [&] { retire(lane, slot, in_slot[slot]); });
        if (!fill(lane, slot, index, spans)) break;
        in_slot[slot] = index;
        slot = (slot + 1) % lane.depth();
      }
      for (std::uint32_t i = 0; i < lane.depth(); ++i) {
        retire(lane, slot, in_slot[slot]);
        slot = (slot + 1) % lane.depth();
      }
      lane.finish();
    } catch (...) {
      board_.failed(std::current_exception());
      lane.settle();
    }
    board_.reader_finished();
  }

 private:
  // Notes how long `work` took, where a timeline is asked for.
  template <typename Work>
  void timed(std::vector<Span>& spans, SpanKind kind, std::size_t chunk, Work&& work) {
    if (timeline_ == nullptr) {
      work();
      return;
    }
    const double start = timeline_->seconds();
    work();
    spans.push_back({0, kind, chunk, start, timeline_->seconds()});
  }

  Batch batch_of(std::size_t index) const {
    const Chunk& chunk = schedule_.chunks[index];
    return {schedule_.segments_of(chunk),
            chunk.segment_count,
            chunk.bytes,
            dest_.data(),
            ledger_.tallies(),
            ledger_.digest(),
            index};
  }

  // False where the read was stopped: its bytes are then not the file's.
  bool fill(Lane& lane, std::uint32_t slot, std::size_t index, std::vector<Span>& spans) {
    const Chunk& chunk = schedule_.chunks[index];
    const Batch batch = batch_of(index);
    std::byte* landing = lane.landing(slot, batch, source_.slack());
    const std::byte* bytes = nullptr;
    timed(spans, SpanKind::kRead, index, [&] {
      bytes =
          ledger_.digest() ? read_digesting(chunk, batch, landing) : read(chunk, landing, nullptr);
    });
    if (board_.stop().load(std::memory_order_relaxed)) return false;
    timed(spans, SpanKind::kQueue, index, [&] { lane.submit(slot, batch, bytes); });
    return true;
  }

  const std::byte* read(const Chunk& chunk, std::byte* landing, Reading* reading) const {
    return source_.read(chunk.file, chunk.source_offset, chunk.bytes, landing, board_.stop(),
                        reading);
  }

  const std::byte* read_digesting(const Chunk& chunk, const Batch& batch, std::byte* landing) {
    ChunkDigests digests(batch);
    const bool pieces = digests.can_work_on_pieces();
    const std::byte* bytes = read(chunk, landing, pieces ? &digests : nullptr);
    if (!pieces) digests.piece(0, chunk.bytes, bytes);
    digests.post(ledger_);
    return bytes;
  }

  void retire(Lane& lane, std::uint32_t slot, std::size_t& index) {
    if (index == kNothing) return;
    lane.await(slot);
    const Chunk& chunk = schedule_.chunks[index];
    const Segment* segments = schedule_.segments_of(chunk);
    for (const Segment* segment = segments; segment != segments + chunk.segment_count; ++segment) {
      ledger_.landed(*segment, lane);
    }
    board_.landed(segments, chunk.segment_count);
    index = kNothing;
  }

  const CallClock* timeline_;
  std::vector<std::vector<Span>> spans_;  // one list a reader
  const Schedule& schedule_;
  const Source& source_;
  DeviceBuffer& dest_;
  Ledger& ledger_;
  ProgressBoard board_;
  std::atomic<std::size_t> next_{0};
};

// Joins on every way out: readers must not outlive what they read into.
class Readers {
 public:
  Readers() = default;
  Readers(const Readers&) = delete;
  Readers& operator=(const Readers&) = delete;
  ~Readers() { join(); }

  template <typename Work>
  void start(Work&& work) {
    threads_.emplace_back(std::forward<Work>(work));
  }
  void join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::vector<std::thread> threads_;
};

EngineConfig checked(const EngineConfig& config) {
  if (config.readers == 0 || config.readers > kMaxReaders) {
    throw Error(Code::kInvalidArgument, 0,
                "reader threads must be 1 to " + std::to_string(kMaxReaders));
  }
  if (config.depth == 0 || config.depth > kMaxDepth) {
    throw Error(Code::kInvalidArgument, 0,
                "staging depth must be 1 to " + std::to_string(kMaxDepth));
  }
  if (config.chunk_bytes > kMaxChunkBytes) {
    throw Error(Code::kInvalidArgument, 0,
                "chunks must be at most " + std::to_string(kMaxChunkBytes) + " bytes");
  }
  return config;
}

}  // namespace

std::uint64_t EngineConfig::slot_bytes() const noexcept {
  const std::uint64_t bytes = std::max(chunk_bytes, kMinChunkBytes) + kMaxSlack;
  return (bytes + kPage - 1) / kPage * kPage;
}

std::uint64_t EngineConfig::ring_bytes() const noexcept { return slot_bytes() * depth * readers; }

Engine::Engine(std::shared_ptr<const Device> device, std::unique_ptr<StagingRing> ring,
               const EngineConfig& config)
    : device_(std::move(device)), ring_(std::move(ring)), config_(checked(config)) {
  if (ring_->size() < config_.ring_bytes()) {
    throw Error(Code::kInvalidArgument, 0, "the staging ring is smaller than the engine needs");
  }
  pinned_ = device_->adopt(*ring_);
  try {
    const LaneShape shape{config_.depth, config_.slot_bytes()};
    for (std::uint32_t i = 0; i < config_.readers; ++i) {
      std::byte* staging = ring_->data() + i * config_.depth * config_.slot_bytes();
      lanes_.push_back(device_->make_lane(shape, staging));
    }
  } catch (...) {
    lanes_.clear();
    device_->release(*ring_);
    throw;
  }
}

Engine::~Engine() {
  lanes_.clear();
  device_->release(*ring_);
}

std::uint64_t Engine::conversion_bytes() const noexcept {
  return device_->conversion_bytes({config_.depth, config_.slot_bytes()}) * config_.readers;
}

Stats Engine::execute(const Request& request, DeviceBuffer& dest, const Observer& observer) {
  Bounds bounds{{}, dest.size(), request.units};
  for (const SourceFile& file : request.files) bounds.file_bytes.push_back(file.bytes);
  const Schedule schedule = cut(request.ops, bounds, config_.chunk_bytes);
  Ledger ledger(*device_, request, schedule, dest);
  device_->load_code(schedule.decoders, ledger.tallies() != nullptr);
  if (schedule.converts) {
    for (const std::unique_ptr<Lane>& lane : lanes_) lane->prepare_conversions();
  }
  // Few chunks need few threads.
  const std::uint32_t readers = static_cast<std::uint32_t>(
      std::min<std::size_t>(lanes_.size(), std::max<std::size_t>(1, schedule.chunks.size())));
  const CallClock clock;
  if (request.timeline) {
    for (std::uint32_t i = 0; i < readers; ++i) lanes_[i]->start_timeline(clock);
  }
  const double start = clock.seconds();
  const std::unique_ptr<Source> source = open_source(request.io, request.files);
  Call call(schedule, *source, dest, ledger, request.timeline ? &clock : nullptr, readers);
  {
    Readers threads;
    for (std::uint32_t i = 0; i < readers; ++i) {
      try {
        threads.start([&call, &lane = *lanes_[i], &spans = call.spans_of(i)] {
          call.read_chunks(lane, spans);
        });
      } catch (const std::system_error& error) {
        call.board().reader_finished();
        // One reader is enough to finish the work.
        if (i == 0) {
          call.board().failed(std::make_exception_ptr(
              Error(Code::kInternal, error.code().value(), "no reader thread can be started")));
        }
      }
    }
    call.board().watch(observer);
  }
  const double end = clock.seconds();
  std::vector<Span> timeline;
  try {
    if (request.timeline) timeline = call.take_timeline(lanes_);
  } catch (const Error&) {
    // Where the call failed too, that says more.
    call.board().rethrow();
    throw;
  }
  call.board().rethrow();
  return {schedule.source_bytes,
          schedule.chunks.size(),
          end - start,
          source->io(),
          pinned_,
          std::move(timeline),
          ledger.reports(request.ops.size())};
}

}  // namespace transfer
