#include "transfer/engine.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>

#include "transfer/brief_wait.hpp"
#include "transfer/division.hpp"
#include "transfer/error.hpp"
#include "transfer/progress_board.hpp"
#include "transfer/readers.hpp"
#include "transfer/rounding.hpp"
#include "transfer/schedule.hpp"
#include "transfer/slot_turns.hpp"

namespace transfer {
namespace {

// More would only cost memory: no machine copies faster with more.
constexpr std::uint32_t kMaxReaders = 256;
constexpr std::uint32_t kMaxDepth = 1024;
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{1} << 30;

// Whether any of these bytes, of which there is one at least, is not zero.
bool has_nonzero(const std::byte* bytes, std::uint64_t count) {
  // If each byte equals the one before it, all equal the first.
  return bytes[0] != std::byte{0} || std::memcmp(bytes, bytes + 1, count - 1) != 0;
}

// What a call finds out about each operation: tallies in device memory, and what readers find.
class Ledger {
 public:
  Ledger(Queue& queue, const Request& request, const Schedule& schedule, const DeviceBuffer& dest)
      : queue_(queue),
        digest_(request.digest),
        nonzero_(request.ops.size()),
        source_(request.digest ? request.ops.size() : 0),
        unit_left_(schedule.unit_bytes.size()),
        unit_floats_(schedule.unit_bytes.size()) {
    if (schedule.kernels.floats.empty() && !digest_) return;
    tallies_ = queue.open_tallies(request.ops.size());
    for (std::size_t unit = 0; unit < unit_left_.size(); ++unit) {
      unit_left_[unit] = schedule.unit_bytes[unit];
    }
    for (std::size_t i = 0; i < request.ops.size(); ++i) {
      const CopyOp& op = request.ops[i];
      if (op.floats == FloatFormat::kNone || op.dest_bytes == 0) continue;
      unit_floats_[op.unit].push_back({op.floats, dest.data() + op.dest_offset,
                                       op.dest_bytes / float_bytes(op.floats),
                                       &tallies_[i].non_finite});
    }
  }

  // Has the last bytes of a unit looked at together: a launch a chunk would cost readers more than
  // the device.
  void landed(const Segment& segment) {
    if (tallies_ == nullptr) return;
    const std::uint64_t before = unit_left_[segment.unit].fetch_sub(segment.source_bytes);
    if (before == segment.source_bytes) queue_.landed(unit_floats_[segment.unit]);
  }

  bool digest() const { return digest_; }

  OpTally* tallies() const { return tallies_; }

  // Examines bytes that a reader has just read, while they are in its core's cache. They belong to
  // a segment, and start at `offset` of its operation.
  void read(const Segment& segment, const std::byte* bytes, std::uint64_t count,
            std::uint64_t offset) {
    // After the first byte that is not zero, the rest of the operation need not be examined.
    std::atomic<bool>& nonzero = nonzero_[segment.op];
    if (!nonzero.load(std::memory_order_relaxed) && has_nonzero(bytes, count)) {
      nonzero.store(true, std::memory_order_relaxed);
    }
    if (!digest_) return;
    const Digest digest = digest_piece(reinterpret_cast<const std::uint8_t*>(bytes), count, offset);
    source_[segment.op].sum.fetch_add(digest.sum, std::memory_order_relaxed);
    source_[segment.op].mix.fetch_add(digest.mix, std::memory_order_relaxed);
  }

  // After all has landed.
  std::vector<OpReport> reports(View<CopyOp> ops) const {
    const std::size_t operations = ops.size();
    std::vector<OpReport> out(operations, OpReport{});
    for (std::size_t i = 0; i < operations; ++i) {
      out[i].all_zero = ops[i].source_bytes != 0 && !nonzero_[i].load();
    }
    if (tallies_ == nullptr) return out;
    const std::vector<OpTally> tallies = queue_.read_tallies(operations);
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

  Queue& queue_;
  bool digest_;
  std::vector<std::atomic<bool>> nonzero_;  // one an operation
  std::vector<SharedDigest> source_;
  OpTally* tallies_ = nullptr;
  std::vector<std::atomic<std::uint64_t>> unit_left_;  // source bytes that have not landed
  std::vector<std::vector<Floats>> unit_floats_;
};

struct Work {
  const Schedule& schedule;
  const Division& division;
  Source& source;
  Ledger& ledger;
  DeviceBuffer& dest;
  Queue& queue;
  std::byte* staging;
  const EngineConfig& config;
};

class Call {
 public:
  Call(const Work& work, const CallClock* timeline, std::uint32_t readers)
      : work_(work),
        timeline_(timeline),
        spans_(readers),
        board_(work.schedule.unit_bytes, readers),
        turns_(work.config.depth, work.division, board_.stop(),
               [this](std::size_t chunk) { retire(chunk); }) {}

  ProgressBoard& board() { return board_; }

  // After all readers are joined: what they noted, and what the device did.
  std::vector<Span> timeline() const {
    std::vector<Span> out;
    for (const std::vector<Span>& spans : spans_) out.insert(out.end(), spans.begin(), spans.end());
    work_.queue.append_spans(out);
    return out;
  }

  // One reader: takes the next stretch, share by share: waits for its slot, fills it; until none
  // is left.
  void read_shares(std::uint32_t reader) noexcept {
    try {
      work_.queue.bind_thread();
      while (!stopped()) {
        const std::size_t next = next_.fetch_add(1, std::memory_order_relaxed);
        const std::vector<Stretch>& stretches = work_.division.stretches;
        if (next < stretches.size()) {
          read_stretch(reader, stretches[next]);
          continue;
        }
        if (next == stretches.size()) {
          timed(reader, SpanKind::kWait, work_.schedule.chunks.size(), [&] { turns_.drain(); });
          if (!stopped()) work_.queue.finish();
          drained_ = true;
        }
        // Copies are slow out of the caches of cores that went to sleep, the last of them too.
        wait_briefly([this] { return drained_ || stopped(); });
        break;
      }
    } catch (...) {
      board_.failed(std::current_exception());
    }
    if (stopped()) turns_.wake_all();
    board_.reader_finished();
  }

 private:
  bool stopped() const { return board_.stop().load(std::memory_order_relaxed); }

  // Notes how long `work` took, where a timeline is asked for.
  template <typename Step>
  void timed(std::uint32_t reader, SpanKind kind, std::size_t chunk, Step&& step) {
    if (timeline_ == nullptr) {
      step();
      return;
    }
    const double start = timeline_->seconds();
    step();
    spans_[reader].push_back({reader, kind, chunk, start, timeline_->seconds()});
  }

  Batch batch_of(std::size_t index) const {
    const Chunk& chunk = work_.schedule.chunks[index];
    return {work_.schedule.segments_of(chunk),
            chunk.segment_count,
            chunk.bytes,
            work_.dest.data(),
            work_.ledger.tallies(),
            work_.ledger.digest(),
            index};
  }

  // Where the chunk's first byte is read to. Staged bytes stand as they do in their pages of the
  // file: direct reads need it, and copies from the page cache like it.
  std::byte* landing(std::size_t index, const Batch& batch) const {
    const Chunk& chunk = work_.schedule.chunks[index];
    std::byte* straight = work_.queue.destination(batch);
    if (straight != nullptr &&
        !work_.source.wants_alignment(chunk.file, chunk.source_offset, chunk.bytes)) {
      return straight;
    }
    return work_.staging + turns_.slot_of(index) * work_.config.slot_bytes() +
           chunk.source_offset % kSourceAlignment;
  }

  void read_stretch(std::uint32_t reader, const Stretch& stretch) {
    for (std::size_t i = 0; i < stretch.count && !stopped(); ++i) {
      take(reader, work_.division.shares[stretch.first + i]);
    }
  }

  void take(std::uint32_t reader, const Share& share) {
    bool entered = false;
    timed(reader, SpanKind::kWait, share.chunk, [&] { entered = turns_.enter(share.chunk); });
    if (!entered) return;
    const Batch batch = batch_of(share.chunk);
    std::byte* bytes = landing(share.chunk, batch);
    timed(reader, SpanKind::kRead, share.chunk, [&] { fill(share, batch, bytes + share.offset); });
    if (stopped() || !turns_.filled(share.chunk)) return;
    timed(reader, SpanKind::kQueue, share.chunk,
          [&] { work_.queue.submit(turns_.slot_of(share.chunk), batch, bytes); });
    turns_.submitted(share.chunk);
  }

  void fill(const Share& share, const Batch& batch, std::byte* out) {
    const Chunk& chunk = work_.schedule.chunks[share.chunk];
    work_.source.read(chunk.file, chunk.source_offset + share.offset, share.bytes, out,
                      board_.stop());
    // A stopped read leaves other bytes than the file's.
    if (!stopped()) look_at(share, batch, out);
  }

  void look_at(const Share& share, const Batch& batch, const std::byte* bytes) {
    for (const Segment* segment = batch.segments; segment != batch.segments + batch.count;
         ++segment) {
      const std::uint64_t begin = std::max(share.offset, segment->chunk_offset);
      const std::uint64_t end =
          std::min(share.offset + share.bytes, segment->chunk_offset + segment->source_bytes);
      if (begin >= end) continue;
      work_.ledger.read(*segment, bytes + (begin - share.offset), end - begin,
                        segment->op_offset + (begin - segment->chunk_offset));
    }
  }

  void retire(std::size_t index) {
    work_.queue.await(turns_.slot_of(index));
    const Chunk& chunk = work_.schedule.chunks[index];
    const Segment* segments = work_.schedule.segments_of(chunk);
    for (const Segment* segment = segments; segment != segments + chunk.segment_count; ++segment) {
      work_.ledger.landed(*segment);
    }
    board_.landed(segments, chunk.segment_count);
  }

  const Work& work_;
  const CallClock* timeline_;
  std::vector<std::vector<Span>> spans_;  // one list a reader
  ProgressBoard board_;
  SlotTurns turns_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> drained_{false};
};

// The first use of a device by a thread takes a while; what it says is heard at the next.
void bind_quietly(Queue& queue) noexcept {
  try {
    queue.bind_thread();
  } catch (...) {
  }
}

// Has the queue note when it does what, on every way out of a call no longer than that.
class QueueTimeline {
 public:
  QueueTimeline(Queue& queue, const CallClock& clock, std::size_t chunks) : queue_(queue) {
    queue_.start_timeline(clock, chunks);
  }
  ~QueueTimeline() { queue_.end_timeline(); }
  QueueTimeline(const QueueTimeline&) = delete;
  QueueTimeline& operator=(const QueueTimeline&) = delete;

 private:
  Queue& queue_;
};

}  // namespace

void EngineConfig::check() const {
  if (readers == 0 || std::max(readers, storage_readers) > kMaxReaders) {
    throw Error(Code::kInvalidArgument, 0,
                "reader threads must be 1 to " + std::to_string(kMaxReaders));
  }
  if (depth == 0 || depth > kMaxDepth) {
    throw Error(Code::kInvalidArgument, 0,
                "staging depth must be 1 to " + std::to_string(kMaxDepth));
  }
  if (chunk_bytes > kMaxChunkBytes) {
    throw Error(Code::kInvalidArgument, 0,
                "chunks must be at most " + std::to_string(kMaxChunkBytes) + " bytes");
  }
}

std::uint64_t EngineConfig::slot_bytes() const noexcept {
  // Room for aligned reads on either side.
  return round_up(std::max(chunk_bytes, kMinChunkBytes), kSourceAlignment) + 2 * kSourceAlignment;
}

std::uint64_t EngineConfig::ring_bytes() const noexcept {
  return StagingRing::size_for(slot_bytes() * depth);
}

Engine::Engine(std::shared_ptr<const Device> device, std::unique_ptr<StagingRing> ring,
               const EngineConfig& config)
    : device_(std::move(device)), ring_(std::move(ring)), config_(config) {
  config_.check();
  if (ring_->size() < config_.ring_bytes()) {
    throw Error(Code::kInvalidArgument, 0, "the staging ring is smaller than the engine needs");
  }
  pinned_ = device_->adopt(*ring_);
  try {
    queue_ = device_->make_queue({config_.depth, config_.slot_bytes()});
  } catch (...) {
    device_->release(*ring_);
    throw;
  }
}

Engine::~Engine() {
  queue_.reset();
  device_->release(*ring_);
}

std::uint64_t Engine::conversion_bytes() const noexcept {
  return device_->conversion_bytes({config_.depth, config_.slot_bytes()});
}

Stats Engine::execute(const Request& request, DeviceBuffer& dest, const Observer& observer) {
  Bounds bounds{{}, dest.size(), request.units};
  for (const SourceFile& file : request.files) bounds.file_bytes.push_back(file.bytes);
  Schedule schedule = cut(request.ops, bounds, config_.chunk_bytes);
  const std::unique_ptr<Source> source = open_source(request.io, request.files);
  const std::uint32_t wanted = source->reads_storage()
                                   ? std::max(config_.readers, config_.storage_readers)
                                   : config_.readers;
  const Division division =
      divide(schedule, {config_.read_bytes, queue_->stretch_bytes(), wanted, request.digest});
  // Little work needs few threads.
  Readers readers(static_cast<std::uint32_t>(std::min<std::size_t>(
                      wanted, std::max<std::size_t>(1, division.stretches.size()))),
                  [this, &source] {
                    bind_quietly(*queue_);
                    source->look_ahead();
                  });
  Ledger ledger(*queue_, request, schedule, dest);
  schedule.kernels.digest = request.digest;
  device_->load_code(schedule.kernels);
  if (schedule.kernels.converts) queue_->prepare_conversions();
  const CallClock clock;
  std::optional<QueueTimeline> noting;
  if (request.timeline) noting.emplace(*queue_, clock, schedule.chunks.size());
  const double start = clock.seconds();
  const Work work{schedule, division, *source, ledger, dest, *queue_, ring_->data(), config_};
  Call call(work, request.timeline ? &clock : nullptr, readers.count());
  {
    const Readers::Running running =
        readers.begin([&call](std::uint32_t reader) { call.read_shares(reader); });
    call.board().watch(observer);
  }
  const double end = clock.seconds();
  if (call.board().stop().load()) queue_->settle();
  std::vector<Span> timeline;
  try {
    if (request.timeline) timeline = call.timeline();
  } catch (...) {
    // Where the call failed too, that says more.
    call.board().rethrow();
    throw;
  }
  call.board().rethrow();
  return {
      schedule.source_bytes,
      schedule.chunks.size(),
      wanted,
      end - start,
      source->io(),
      pinned_,
      std::move(timeline),
      ledger.reports(request.ops),
  };
}

}  // namespace transfer
