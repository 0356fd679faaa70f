#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "check.hpp"
#include "device_guard.hpp"
#include "stream.hpp"
#include "transfer/error.hpp"
#include "transfer/kernels.hpp"
#include "transfer/measure.hpp"
#include "transfer/staging_ring.hpp"

namespace phi3::transfer {
namespace {

class PinnedRing {
 public:
  PinnedRing(const Device& device, std::uint64_t bytes) : device_(device), ring_(bytes) {
    if (!device_.pin(ring_)) {
      throw Error(Code::kDeviceFailure, 0,
                  std::to_string(bytes) + " bytes of host memory cannot be pinned");
    }
  }
  ~PinnedRing() { device_.unpin(ring_); }
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  const std::byte* data() const { return ring_.data(); }

 private:
  const Device& device_;
  StagingRing ring_;
};

// A staging slot. It always uses the same stream, and is free when its last copy has landed.
struct Slot {
  const Stream* stream;
  const std::byte* bytes;
  Event landed;
};

// Fills the buffer with random bytes. They repeat, because the host makes only one piece.
void fill_device(DeviceBuffer& buffer) {
  constexpr std::uint64_t kPiece = std::uint64_t{16} << 20;
  std::vector<std::byte> piece(std::min(kPiece, buffer.size()));
  fill_finite(piece.data(), piece.size(), 1);
  for (std::uint64_t offset = 0; offset < buffer.size(); offset += piece.size()) {
    buffer.write(offset, piece.data(),
                 std::min<std::uint64_t>(piece.size(), buffer.size() - offset));
  }
}

// Queues the work once.
void launch(const WorkShape& shape, const WorkBytes& bytes, const DeviceBuffer& source,
            const DeviceBuffer& dest, const Stream& stream) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(source.data());
  int status = cudaSuccess;
  switch (shape.work) {
    case MeasuredWork::kCopy:
      status =
          cudaMemcpyAsync(dest.data(), from, bytes.read, cudaMemcpyDeviceToDevice, stream.get());
      break;
    case MeasuredWork::kDecodeToF16: {
      kernels::LaunchBatch<kernels::MoveSegment> batch{};
      batch.items[batch.count++] = {from, dest.data(), shape.elements, 1.0f, {}};
      status = kernels::launch_decode_to_f16(shape.ggml_type, batch, stream.get());
      break;
    }
    case MeasuredWork::kCountNonFinite: {
      kernels::LaunchBatch<kernels::CountSegment> batch{};
      batch.items[batch.count++] = {from, reinterpret_cast<NonFinite*>(dest.data()),
                                    shape.elements};
      status = kernels::launch_count_non_finite(FloatFormat::kF16, batch, stream.get());
      break;
    }
    case MeasuredWork::kDigest: {
      kernels::LaunchBatch<kernels::DigestSegment> batch{};
      batch.items[batch.count++] = {from, reinterpret_cast<Digest*>(dest.data()), bytes.read, 0};
      status = kernels::launch_digest(batch, stream.get());
      break;
    }
    case MeasuredWork::kCopyToNew:
      throw Error(Code::kInvalidArgument, 0,
                  "copies to new memory can be measured only on the host");
  }
  check(static_cast<cudaError_t>(status), "kernel launch", "measuring");
}

}  // namespace

Rate measure_cuda_upload(const Device& device, const UploadShape& shape, std::uint32_t runs) {
  if (shape.chunk_bytes == 0 || shape.streams == 0 || shape.depth == 0 || shape.total_bytes == 0) {
    throw Error(Code::kInvalidArgument, 0, "an upload needs bytes, queues and slots");
  }
  const DeviceGuard guard(device.ordinal());
  const std::uint64_t slot_count = std::uint64_t{shape.streams} * shape.depth;
  const PinnedRing ring(device, measured_bytes(slot_count, shape.chunk_bytes));
  const std::unique_ptr<DeviceBuffer> dest = device.allocate(shape.total_bytes);
  std::vector<Slot> slots;
  const std::vector<Stream> streams(shape.streams);
  for (std::uint64_t i = 0; i < slot_count; ++i) {
    slots.push_back({&streams[i % shape.streams], ring.data() + i * shape.chunk_bytes, Event()});
  }
  return rate_of(shape.total_bytes, runs, [&] {
    const auto start = std::chrono::steady_clock::now();
    std::size_t next = 0;
    for (std::uint64_t offset = 0; offset < shape.total_bytes; offset += shape.chunk_bytes) {
      const Slot& slot = slots[next++ % slots.size()];
      // Returns at once for an event that was never recorded.
      check(cudaEventSynchronize(slot.landed.get()), "cudaEventSynchronize");
      check(cudaMemcpyAsync(dest->data() + offset, slot.bytes,
                            std::min(shape.chunk_bytes, shape.total_bytes - offset),
                            cudaMemcpyHostToDevice, slot.stream->get()),
            "cudaMemcpyAsync", "measuring copies to the device");
      slot.landed.record(slot.stream->get());
    }
    for (const Stream& stream : streams) {
      check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count();
  });
}

Rate measure_cuda_work(const Device& device, const WorkShape& shape, std::uint32_t runs) {
  const DeviceGuard guard(device.ordinal());
  const WorkBytes bytes = bytes_of(shape);
  const std::unique_ptr<DeviceBuffer> source = device.allocate(bytes.read);
  // Work that only reads still needs counters to add to.
  const std::unique_ptr<DeviceBuffer> dest =
      device.allocate(std::max<std::uint64_t>(bytes.written, sizeof(OpTally)));
  fill_device(*source);
  const Stream stream;
  check(cudaMemsetAsync(dest->data(), 0, dest->size(), stream.get()), "cudaMemsetAsync");
  const Event begin(cudaEventDefault);
  const Event end(cudaEventDefault);
  return rate_of(bytes.read + bytes.written, runs, [&] {
    begin.record(stream.get());
    launch(shape, bytes, *source, *dest, stream);
    end.record(stream.get());
    check(cudaEventSynchronize(end.get()), "cudaEventSynchronize", "measuring");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) / 1e3;
  });
}

}  // namespace phi3::transfer
