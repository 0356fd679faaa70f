#include "cuda_queue.hpp"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <vector>

#include "batcher.hpp"
#include "check.hpp"
#include "device_array.hpp"
#include "device_guard.hpp"
#include "device_timeline.hpp"
#include "stream.hpp"
#include "transfer/kernels.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

// Kernels load 16 bytes at a time. Segments with less alignment in the file are copied separately.
constexpr std::uint64_t kKernelAlignment = 16;

// Room for re-aligned segments of a chunk: their largest number, times the padding of each.
constexpr std::uint64_t kRealignSlack = kMaxSegments * kKernelAlignment;

// The least room for tallies: more operations than a model has. Thus no call has to free memory,
// for which the driver would wait until the whole device is idle.
constexpr std::size_t kLeastTallies = 4096;

constexpr std::uint64_t kSlotAlignment = 256;

std::uint64_t device_slot_bytes(const QueueShape& shape) noexcept {
  return round_up(shape.slot_bytes + kRealignSlack, kSlotAlignment);
}

struct SlotEvents {
  Event copied;
  Event landed;
};

// The resources of a queue on its device. The streams are destroyed first, and wait for work that
// uses the other resources.
//
// All copies go through one stream, so that the link is never idle between copies: with several
// streams it is up to a fifth slower (docs/performance.md). All other work waits in a second
// stream, so that no copy ever waits for a kernel.
struct Resources {
  explicit Resources(std::uint32_t slots) : events(slots) {}

  DeviceArray<std::uint8_t> staging;  // chunks that need conversion, as they arrived
  DeviceArray<OpTally> tallies;
  std::vector<SlotEvents> events;
  std::unique_ptr<DeviceTimeline> timeline;
  // For bytes from other devices, which must not delay those from the host. Created on first use.
  std::optional<Stream> peers;
  Stream work;
  Stream copies;
};

class CudaQueue final : public Queue {
 public:
  CudaQueue(int ordinal, const QueueShape& shape)
      : ordinal_(ordinal), shape_(shape), on_device_(std::make_unique<Resources>(shape.slots)) {}

  ~CudaQueue() override {
    const QuietDeviceGuard guard(ordinal_);
    on_device_.reset();
  }

  std::uint64_t stretch_bytes() const noexcept override { return 0; }

  void prepare_conversions() override {
    const DeviceGuard guard(ordinal_);
    on_device_->staging.reserve(cuda_queue_conversion_bytes(shape_), "conversion staging");
  }

  OpTally* open_tallies(std::size_t operations) override {
    const DeviceGuard guard(ordinal_);
    DeviceArray<OpTally>& tallies = on_device_->tallies;
    tallies.reserve(std::max(operations, kLeastTallies), "tallies");
    check(cudaMemsetAsync(tallies.data(), 0, operations * sizeof(OpTally), work()),
          "cudaMemsetAsync");
    return tallies.data();
  }

  std::vector<OpTally> read_tallies(std::size_t operations) override {
    const DeviceGuard guard(ordinal_);
    std::vector<OpTally> out(operations);
    check(cudaMemcpyAsync(out.data(), on_device_->tallies.data(), operations * sizeof(OpTally),
                          cudaMemcpyDeviceToHost, work()),
          "cudaMemcpyAsync", "reading tallies back");
    check(cudaStreamSynchronize(work()), "cudaStreamSynchronize", "reading tallies back");
    return out;
  }

  void bind_thread() override { check(cudaSetDevice(ordinal_), "cudaSetDevice"); }

  std::byte* destination(const Batch&) const noexcept override { return nullptr; }

  void submit(std::uint32_t slot, const Batch& batch, const std::byte* bytes) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    DeviceTimeline* timeline = on_device_->timeline.get();
    const SlotEvents& events = on_device_->events[slot];
    const bool direct = lands_directly(batch.segments, batch.count);
    if (timeline != nullptr) timeline->starts(batch.chunk, copies());
    if (direct) {
      copy_straight(batch, bytes);
    } else {
      stage(slot, batch, bytes);
    }
    if (timeline != nullptr) timeline->copied(batch.chunk, copies());
    if (direct && !batch.digest) {
      events.landed.record(copies());
      return;
    }
    events.copied.record(copies());
    finish_on_device(slot, batch, !direct);
  }

  void carry(std::uint32_t slot, const Cargo& cargo, const std::byte* bytes) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    DeviceTimeline* timeline = on_device_->timeline.get();
    if (timeline != nullptr) timeline->starts(cargo.chunk, copies());
    upload(staging_of(slot), bytes + cargo.begin, cargo.end - cargo.begin);
    if (timeline != nullptr) timeline->copied(cargo.chunk, copies());
    on_device_->events[slot].copied.record(copies());
  }

  void take(std::uint32_t slot, const Batch& batch, const Queue& carrier) override {
    // can_take_from() is true only for CUDA devices.
    const auto& from = static_cast<const CudaQueue&>(carrier);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (&from == this) {
      arrive_at(staging_of(slot), batch);
      finish_on_device(slot, batch, true);
      return;
    }
    DeviceTimeline* timeline = on_device_->timeline.get();
    const SlotEvents& events = on_device_->events[slot];
    const cudaStream_t stream = peers();
    const bool direct = lands_directly(batch.segments, batch.count);
    check(cudaStreamWaitEvent(stream, from.on_device_->events[slot].copied.get(), 0),
          "cudaStreamWaitEvent");
    if (timeline != nullptr) timeline->starts(batch.chunk, stream);
    const std::uint8_t* const carried = from.staging_of(slot);
    if (direct) {
      copy_runs(batch, [&](std::byte* dest, std::uint64_t offset, std::uint64_t bytes) {
        copy_from(from, dest, carried + (offset - batch.begin), bytes, stream);
      });
    } else {
      copy_from(from, staging_of(slot), carried, batch.end - batch.begin, stream);
      arrive_at(staging_of(slot), batch);
    }
    if (timeline != nullptr) timeline->copied(batch.chunk, stream);
    if (direct && !batch.digest) {
      events.landed.record(stream);
      return;
    }
    events.copied.record(stream);
    finish_on_device(slot, batch, !direct);
  }

  void await(std::uint32_t slot) override {
    check(cudaEventSynchronize(on_device_->events[slot].landed.get()), "cudaEventSynchronize",
          "waiting for the copy of a chunk");
  }

  // Makes one launch for each run of tensors of one format.
  void count_floats(const std::vector<Floats>& floats) override {
    if (floats.empty()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    FloatFormat format = floats.front().format;
    auto counts = batcher<kernels::CountSegment>([&](const auto& batch) {
      check_launch(kernels::launch_count_non_finite(format, batch, work()), "counting infinities");
    });
    for (const Floats& tensor : floats) {
      if (tensor.format != format) counts.flush();
      format = tensor.format;
      counts.add({tensor.data, tensor.counters, tensor.count});
    }
    counts.flush();
  }

  void finish() override {
    for (cudaStream_t stream : streams()) {
      check(cudaStreamSynchronize(stream), "cudaStreamSynchronize", "waiting for the last chunks");
    }
  }

  void start_timeline(const CallClock& clock, std::size_t chunks) override {
    const DeviceGuard guard(ordinal_);
    on_device_->timeline = std::make_unique<DeviceTimeline>(clock, copies(), chunks);
  }

  void append_spans(std::vector<Span>& out) override {
    const DeviceGuard guard(ordinal_);
    on_device_->timeline->append_to(out);
  }

  void end_timeline() noexcept override {
    const QuietDeviceGuard guard(ordinal_);
    on_device_->timeline.reset();
  }

  void settle() noexcept override {
    const QuietDeviceGuard guard(ordinal_);
    for (cudaStream_t stream : streams()) (void)cudaStreamSynchronize(stream);
  }

 private:
  cudaStream_t copies() const noexcept { return on_device_->copies.get(); }
  cudaStream_t work() const noexcept { return on_device_->work.get(); }
  cudaStream_t peers() {
    std::optional<Stream>& stream = on_device_->peers;
    if (!stream) stream.emplace();
    return stream->get();
  }

  // Returns the streams in the order in which work passes through them. If no bytes came from other
  // devices, the first one is repeated.
  std::array<cudaStream_t, 3> streams() const noexcept {
    const std::optional<Stream>& peers = on_device_->peers;
    return {copies(), peers ? peers->get() : copies(), work()};
  }

  std::uint8_t* staging_of(std::uint32_t slot) const noexcept {
    return on_device_->staging.data() + slot * device_slot_bytes(shape_);
  }

  void upload(void* dest, const std::byte* source, std::uint64_t bytes) {
    check(cudaMemcpyAsync(dest, source, bytes, cudaMemcpyHostToDevice, copies()), "cudaMemcpyAsync",
          std::to_string(bytes) + " bytes to the device");
  }

  void copy_from(const CudaQueue& carrier, void* dest, const std::uint8_t* source,
                 std::uint64_t bytes, cudaStream_t stream) {
    check(cudaMemcpyPeerAsync(dest, ordinal_, source, carrier.ordinal_, bytes, stream),
          "cudaMemcpyPeerAsync",
          std::to_string(bytes) + " bytes from GPU " + std::to_string(carrier.ordinal_));
  }

  void copy_straight(const Batch& batch, const std::byte* bytes) {
    copy_runs(batch, [&](std::byte* dest, std::uint64_t offset, std::uint64_t count) {
      upload(dest, bytes + offset, count);
    });
  }

  // Calls copy(destination, offset in the chunk, bytes) as rarely as possible, because a link is
  // idle for some microseconds between copies. The bytes of each segment arrive at its destination.
  template <class Copy>
  void copy_runs(const Batch& batch, Copy&& copy) {
    arrived_.clear();
    const Segment* const end = batch.segments + batch.count;
    for (const Segment* first = batch.segments; first != end;) {
      const Segment* const next = end_of_copy(first, end);
      const std::uint64_t copied =
          next[-1].chunk_offset + next[-1].source_bytes - first->chunk_offset;
      copy(batch.dest + first->dest_offset, first->chunk_offset, copied);
      for (; first != next; ++first) {
        arrived_.push_back(reinterpret_cast<const std::uint8_t*>(batch.dest + first->dest_offset));
      }
    }
  }

  // Uploads the chunk to device staging and records the address of each segment there.
  void stage(std::uint32_t slot, const Batch& batch, const std::byte* bytes) {
    std::uint8_t* staging = staging_of(slot);
    const bool aligned = std::all_of(
        batch.segments, batch.segments + batch.count,
        [](const Segment& segment) { return segment.chunk_offset % kKernelAlignment == 0; });
    if (aligned) {
      upload(staging, bytes + batch.begin, batch.end - batch.begin);
      arrive_at(staging, batch);
      return;
    }
    arrived_.clear();
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Segment& segment = batch.segments[i];
      upload(staging, bytes + segment.chunk_offset, segment.source_bytes);
      arrived_.push_back(staging);
      staging += round_up(segment.source_bytes, kKernelAlignment);
    }
  }

  // Records that the batch's range of the chunk is at this address of the device.
  void arrive_at(const std::uint8_t* staging, const Batch& batch) {
    arrived_.clear();
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      arrived_.push_back(staging + (batch.segments[i].chunk_offset - batch.begin));
    }
  }

  // Queues all work on bytes that arrive before the event `copied` of the slot.
  void finish_on_device(std::uint32_t slot, const Batch& batch, bool converts) {
    const SlotEvents& events = on_device_->events[slot];
    check(cudaStreamWaitEvent(work(), events.copied.get(), 0), "cudaStreamWaitEvent");
    if (converts) convert(batch);
    if (batch.digest) digest(batch);
    DeviceTimeline* timeline = on_device_->timeline.get();
    if (timeline != nullptr) timeline->worked(batch.chunk, work());
    events.landed.record(work());
  }

  // Makes one launch for each run of segments of one type.
  void convert(const Batch& batch) {
    std::uint32_t decoder = batch.segments[0].decoder;
    auto moves = batcher<kernels::MoveSegment>([&](const auto& run) { launch(decoder, run); });
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Segment& segment = batch.segments[i];
      if (segment.decoder != decoder) moves.flush();
      decoder = segment.decoder;
      moves.add({arrived_[i], batch.dest + segment.dest_offset, segment.elements, segment.scale,
                 segment.crop});
    }
    moves.flush();
  }

  void launch(std::uint32_t decoder, const kernels::LaunchBatch<kernels::MoveSegment>& run) {
    if (decoder == kCopyBytes) {
      check_launch(kernels::launch_copy(run, work()), "copying bytes");
    } else {
      check_launch(kernels::launch_decode_to_f16(decoder, run, work()),
                   "decoding ggml type " + std::to_string(decoder));
    }
  }

  // Digests the bytes that arrived.
  void digest(const Batch& batch) {
    auto digests = batcher<kernels::DigestSegment>([this](const auto& run) {
      check_launch(kernels::launch_digest(run, work()), "digesting the copied bytes");
    });
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      const Segment& segment = batch.segments[i];
      digests.add({arrived_[i], &batch.tallies[segment.op].digest, segment.source_bytes,
                   segment.op_offset});
    }
    digests.flush();
  }

  static void check_launch(int status, const std::string& context) {
    check(static_cast<cudaError_t>(status), "kernel launch", context);
  }

  int ordinal_;
  QueueShape shape_;
  std::unique_ptr<Resources> on_device_;
  std::mutex mutex_;  // held while queueing: batches enter the streams one at a time
  // The device addresses of the source bytes, for each segment of the current batch.
  std::vector<const std::uint8_t*> arrived_;
};

}  // namespace

std::unique_ptr<Queue> make_cuda_queue(int ordinal, const QueueShape& shape) {
  const DeviceGuard guard(ordinal);
  return std::make_unique<CudaQueue>(ordinal, shape);
}

std::uint64_t cuda_queue_conversion_bytes(const QueueShape& shape) noexcept {
  return device_slot_bytes(shape) * shape.slots;
}

}  // namespace phi3::transfer
