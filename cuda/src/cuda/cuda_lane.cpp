#include "cuda_lane.hpp"

#include <algorithm>
#include <vector>

#include "check.hpp"
#include "transfer/kernels.hpp"

namespace transfer {
namespace {

// Kernels load 16 bytes at a time; segments that the file leaves less aligned are copied apart.
constexpr std::uint64_t kKernelAlignment = 16;

// Room for re-aligned segments of a chunk: the padding each can need, times their largest count.
constexpr std::uint64_t kRealignSlack = 1024 * kKernelAlignment;

constexpr std::uint64_t kSlotAlignment = 256;

std::uint64_t device_slot_bytes(const LaneShape& shape) noexcept {
  const std::uint64_t bytes = shape.slot_bytes + kRealignSlack;
  return (bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
}

class Stream {
 public:
  Stream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  // Events that keep no time are cheaper to wait for.
  explicit Event(unsigned flags = cudaEventDisableTiming) {
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
  }
  ~Event() {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(other.event_) { other.event_ = nullptr; }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event& operator=(Event&&) = delete;

  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Device memory for conversions: allocated by the first call that converts, kept by the lane.
class Staging {
 public:
  Staging() = default;
  ~Staging() {
    if (data_ != nullptr) (void)cudaFree(data_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void allocate(const LaneShape& shape) {
    if (data_ != nullptr) return;
    const std::uint64_t bytes = device_slot_bytes(shape) * shape.depth;
    check(cudaMalloc(&data_, bytes), "cudaMalloc",
          std::to_string(bytes) + " bytes of conversion staging");
  }

  std::uint8_t* slot(std::uint32_t index, const LaneShape& shape) const {
    return static_cast<std::uint8_t*>(data_) + index * device_slot_bytes(shape);
  }

 private:
  void* data_ = nullptr;
};

// When the device worked on each chunk, as its own events tell.
class DeviceTimeline {
 public:
  // The stream is idle, so that its first event happens now.
  DeviceTimeline(const CallClock& clock, cudaStream_t stream)
      : origin_(cudaEventDefault), stream_(stream) {
    check(cudaEventRecord(origin_.get(), stream_), "cudaEventRecord");
    check(cudaEventSynchronize(origin_.get()), "cudaEventSynchronize");
    origin_seconds_ = clock.seconds();
  }

  void start_chunk(std::uint64_t chunk) {
    chunks_.push_back(
        {chunk, Event(cudaEventDefault), Event(cudaEventDefault), Event(cudaEventDefault)});
    record(chunks_.back().start);
  }
  void copied() { record(chunks_.back().copied); }
  void finished() { record(chunks_.back().finished); }

  void append_to(std::uint32_t lane, std::vector<Span>& out) const {
    for (const ChunkEvents& events : chunks_) {
      const double start = seconds(events.start);
      const double copied = seconds(events.copied);
      out.push_back({lane, SpanKind::kCopy, events.chunk, start, copied});
      out.push_back({lane, SpanKind::kWork, events.chunk, copied, seconds(events.finished)});
    }
  }

 private:
  struct ChunkEvents {
    std::uint64_t chunk;
    Event start;
    Event copied;
    Event finished;
  };

  void record(const Event& event) {
    check(cudaEventRecord(event.get(), stream_), "cudaEventRecord");
  }

  double seconds(const Event& event) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, origin_.get(), event.get()), "cudaEventElapsedTime");
    return origin_seconds_ + static_cast<double>(milliseconds) / 1e3;
  }

  Event origin_;
  cudaStream_t stream_;
  double origin_seconds_ = 0;
  std::vector<ChunkEvents> chunks_;
};

struct Queue {
  explicit Queue(std::uint32_t depth) : landed(depth) {}

  Stream stream;
  std::vector<Event> landed;
  Staging staging;
  std::unique_ptr<DeviceTimeline> timeline;
};

class CudaLane final : public Lane {
 public:
  CudaLane(int ordinal, const LaneShape& shape, std::byte* staging)
      : ordinal_(ordinal),
        shape_(shape),
        host_staging_(staging),
        queue_(std::make_unique<Queue>(shape.depth)) {}

  // The stream must be idle before its buffers go; destroying it alone would not wait.
  ~CudaLane() override {
    const QuietDeviceGuard guard(ordinal_);
    settle();
    queue_.reset();
  }

  std::uint32_t depth() const noexcept override { return shape_.depth; }

  void prepare_conversions() override {
    const DeviceGuard guard(ordinal_);
    queue_->staging.allocate(shape_);
  }

  void bind_thread() override { check(cudaSetDevice(ordinal_), "cudaSetDevice"); }

  std::byte* landing(std::uint32_t slot, const Batch&, std::uint64_t) override {
    return host_staging_ + slot * shape_.slot_bytes;
  }

  void submit(std::uint32_t slot, const Batch& batch, const std::byte* bytes) override {
    DeviceTimeline* timeline = queue_->timeline.get();
    if (timeline != nullptr) timeline->start_chunk(batch.chunk);
    if (lands_directly(batch.segments, batch.count)) {
      copy_straight(batch, bytes);
      if (timeline != nullptr) timeline->copied();
    } else {
      convert(slot, batch, bytes);
    }
    if (batch.digest) digest(batch);
    if (timeline != nullptr) timeline->finished();
    check(cudaEventRecord(queue_->landed[slot].get(), queue_->stream.get()), "cudaEventRecord");
  }

  void await(std::uint32_t slot) override {
    check(cudaEventSynchronize(queue_->landed[slot].get()), "cudaEventSynchronize",
          "waiting for a chunk to land");
  }

  void landed(const std::vector<Halves>& halves) override {
    kernels::Batch<kernels::CountSegment> run{};
    for (const Halves& tensor : halves) {
      run.segments[run.count++] = {tensor.data, tensor.counters, tensor.count};
      if (run.count == kernels::kMaxBatch || &tensor == &halves.back()) {
        check_launch(kernels::launch_count_non_finite(run, queue_->stream.get()),
                     "counting infinities");
        run.count = 0;
      }
    }
  }

  void finish() override {
    check(cudaStreamSynchronize(queue_->stream.get()), "cudaStreamSynchronize",
          "waiting for a lane to finish");
  }

  void start_timeline(const CallClock& clock) override {
    const DeviceGuard guard(ordinal_);
    queue_->timeline = std::make_unique<DeviceTimeline>(clock, queue_->stream.get());
  }

  void take_spans(std::uint32_t lane, std::vector<Span>& out) override {
    const DeviceGuard guard(ordinal_);
    const std::unique_ptr<DeviceTimeline> timeline = std::move(queue_->timeline);
    if (timeline != nullptr) timeline->append_to(lane, out);
  }

  void settle() noexcept override { (void)cudaStreamSynchronize(queue_->stream.get()); }

 private:
  void upload(void* dest, const std::byte* source, std::uint64_t bytes) {
    check(cudaMemcpyAsync(dest, source, bytes, cudaMemcpyHostToDevice, queue_->stream.get()),
          "cudaMemcpyAsync", std::to_string(bytes) + " bytes to the device");
  }

  void copy_straight(const Batch& batch, const std::byte* bytes) {
    arrived_.clear();
    for (const Segment* segment = batch.segments; segment != batch.segments + batch.count;
         ++segment) {
      std::byte* dest = batch.dest + segment->dest_offset;
      upload(dest, bytes + segment->chunk_offset, segment->source_bytes);
      arrived_.push_back(reinterpret_cast<const std::uint8_t*>(dest));
    }
  }

  // Uploads the chunk to device staging and notes where each segment stands there.
  void stage(std::uint32_t slot, const Batch& batch, const std::byte* bytes) {
    std::uint8_t* staging = queue_->staging.slot(slot, shape_);
    arrived_.clear();
    const bool aligned = std::all_of(
        batch.segments, batch.segments + batch.count,
        [](const Segment& segment) { return segment.chunk_offset % kKernelAlignment == 0; });
    if (aligned) {
      upload(staging, bytes, batch.bytes);
      for (std::uint32_t i = 0; i < batch.count; ++i) {
        arrived_.push_back(staging + batch.segments[i].chunk_offset);
      }
      return;
    }
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Segment& segment = batch.segments[i];
      upload(staging, bytes + segment.chunk_offset, segment.source_bytes);
      arrived_.push_back(staging);
      staging +=
          (segment.source_bytes + kKernelAlignment - 1) / kKernelAlignment * kKernelAlignment;
    }
  }

  // One launch for each run of segments of one type.
  void convert(std::uint32_t slot, const Batch& batch, const std::byte* bytes) {
    stage(slot, batch, bytes);
    if (queue_->timeline != nullptr) queue_->timeline->copied();
    kernels::Batch<kernels::MoveSegment> run{};
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Segment& segment = batch.segments[i];
      run.segments[run.count++] = {arrived_[i], batch.dest + segment.dest_offset, segment.elements};
      const bool last = i + 1 == batch.count;
      if (last || run.count == kernels::kMaxBatch ||
          batch.segments[i + 1].decoder != segment.decoder) {
        launch(segment.decoder, run);
        run.count = 0;
      }
    }
  }

  void launch(std::uint32_t decoder, const kernels::Batch<kernels::MoveSegment>& run) {
    cudaStream_t stream = queue_->stream.get();
    if (decoder == kCopyBytes) {
      check_launch(kernels::launch_copy(run, stream), "copying bytes");
    } else {
      check_launch(kernels::launch_decode_to_f16(decoder, run, stream),
                   "decoding ggml type " + std::to_string(decoder));
    }
  }

  // Digests what arrived, behind the copies and conversions on the same stream.
  void digest(const Batch& batch) {
    kernels::Batch<kernels::DigestSegment> run{};
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Segment& segment = batch.segments[i];
      run.segments[run.count++] = {arrived_[i], &batch.tallies[segment.op].digest,
                                   segment.source_bytes, segment.op_offset};
      if (run.count == kernels::kMaxBatch || i + 1 == batch.count) {
        check_launch(kernels::launch_digest(run, queue_->stream.get()), "digesting what arrived");
        run.count = 0;
      }
    }
  }

  static void check_launch(int status, const std::string& context) {
    check(static_cast<cudaError_t>(status), "kernel launch", context);
  }

  int ordinal_;
  LaneShape shape_;
  std::byte* host_staging_;
  std::unique_ptr<Queue> queue_;
  // Where the source bytes of each segment of the batch at hand stand on the device.
  std::vector<const std::uint8_t*> arrived_;
};

}  // namespace

std::unique_ptr<Lane> make_cuda_lane(int ordinal, const LaneShape& shape, std::byte* staging) {
  const DeviceGuard guard(ordinal);
  return std::make_unique<CudaLane>(ordinal, shape, staging);
}

std::uint64_t cuda_lane_conversion_bytes(const LaneShape& shape) noexcept {
  return device_slot_bytes(shape) * shape.depth;
}

}  // namespace transfer
