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
  Event() {
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
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

struct Queue {
  explicit Queue(std::uint32_t depth) : landed(depth) {}

  Stream stream;
  std::vector<Event> landed;
  Staging staging;
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
    if (lands_directly(batch.segments, batch.count)) {
      copy_straight(batch, bytes);
    } else {
      convert(slot, batch, bytes);
    }
    if (batch.tallies != nullptr) tally(batch);
    check(cudaEventRecord(queue_->landed[slot].get(), queue_->stream.get()), "cudaEventRecord");
  }

  void await(std::uint32_t slot) override {
    check(cudaEventSynchronize(queue_->landed[slot].get()), "cudaEventSynchronize",
          "waiting for a chunk to land");
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

  // Looks at what landed, behind the copies and conversions on the same stream.
  void tally(const Batch& batch) {
    look<kernels::CountSegment>(batch, kernels::launch_count_non_finite, [&](std::uint32_t i) {
      const Segment& segment = batch.segments[i];
      const auto* halves = reinterpret_cast<const std::uint16_t*>(batch.dest + segment.dest_offset);
      return kernels::CountSegment{halves, &batch.tallies[segment.op].non_finite,
                                   segment.halves ? segment.dest_bytes / 2 : 0};
    });
    if (!batch.digest) return;
    look<kernels::DigestSegment>(batch, kernels::launch_digest, [&](std::uint32_t i) {
      const Segment& segment = batch.segments[i];
      return kernels::DigestSegment{arrived_[i], &batch.tallies[segment.op].digest,
                                    segment.source_bytes, segment.op_offset};
    });
  }

  // Launches over what `segment_of` makes of the batch's segments, leaving out empty ones.
  template <class Look, class SegmentOf>
  void look(const Batch& batch, int (*launch_look)(const kernels::Batch<Look>&, cudaStream_t),
            SegmentOf segment_of) {
    kernels::Batch<Look> run{};
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Look segment = segment_of(i);
      if (segment.elements != 0) run.segments[run.count++] = segment;
      const bool last = i + 1 == batch.count;
      if (run.count == kernels::kMaxBatch || (last && run.count != 0)) {
        check_launch(launch_look(run, queue_->stream.get()), "looking at what landed");
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
