#include "transfer/bridge.hpp"

#include <exception>
#include <new>
#include <utility>
#include <vector>

#include "cuda-sys/src/bridge.rs.h"
#include "transfer/callback_source.hpp"
#include "transfer/decode_host.hpp"
#include "transfer/error.hpp"
#include "transfer/file_source.hpp"
#include "transfer/host_memory.hpp"
#include "transfer/schedule.hpp"
#ifdef TRANSFER_MEASURE
#include "transfer/measure.hpp"
#endif
#ifdef TRANSFER_WITH_CUDA
#include "transfer/cuda_device.hpp"
#endif

namespace phi3::transfer::bridge {
namespace {

// Made in advance: when it is thrown, there may be no memory for its text.
const transfer::Error out_of_memory(Code::kHostOutOfMemory, 0, "host memory is exhausted");

#ifdef TRANSFER_MEASURE
Rate rate_of(const transfer::Rate& rate) { return {rate.median, rate.minimum, rate.maximum}; }
#endif

// Converts every exception to the encoded form that the Rust side decodes.
template <typename Work>
auto guarded(Work&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const transfer::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw out_of_memory;
  } catch (const std::exception& error) {
    throw transfer::Error(Code::kInternal, 0, error.what());
  } catch (...) {
    throw transfer::Error(Code::kInternal, 0, "an exception of unknown type");
  }
}

Digest digest_of(const transfer::Digest& digest) { return {digest.sum, digest.mix}; }

rust::Vec<Digest> digests_of(const std::vector<transfer::Digest>& digests) {
  rust::Vec<Digest> out;
  for (const transfer::Digest& digest : digests) out.push_back(digest_of(digest));
  return out;
}

Memory memory_of(const std::optional<MemoryInfo>& info) {
  if (!info) return {false, 0, 0, 0};
  return {true, info->free_bytes, info->total_bytes, static_cast<std::uint32_t>(info->bound)};
}

EngineConfig config_of(const RingShape& shape) {
  return {shape.readers, shape.storage_readers, shape.depth, shape.chunk_bytes, shape.read_bytes};
}

// Returns the callback of a Rust source.
ReadCallback callback_of(const SourceReaders& readers, std::size_t index) {
  return [&readers, index](std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                           const std::atomic<bool>& stop) {
    const Stop flag(stop);
    const ReadOutcome outcome =
        readers.read(index, offset, {reinterpret_cast<std::uint8_t*>(out), bytes}, flag);
    if (outcome.failed) {
      throw transfer::Error(static_cast<Code>(outcome.code), outcome.status,
                            std::string(outcome.context));
    }
  };
}

std::vector<std::unique_ptr<Source>> open_sources(rust::Slice<const SourceInfo> sources,
                                                  const SourceReaders& readers, Io io) {
  std::vector<std::unique_ptr<Source>> out;
  for (const SourceInfo& source : sources) {
    const auto index = static_cast<std::uint32_t>(out.size());
    if (source.is_file) {
      out.push_back(open_file_source(io, {source.descriptor, source.bytes, index}, sources.size()));
    } else {
      out.push_back(make_callback_source(
          callback_of(readers, index),
          {source.bytes, source.whole_pages, source.read_bytes, source.concurrent}, index));
    }
  }
  return out;
}

std::vector<DeviceBuffer*> buffers_of(Destinations& dests, const transfer::Engine& engine) {
  std::vector<DeviceBuffer*> out;
  while (dests.count() != 0) {
    const std::size_t lane = out.size();
    Buffer& buffer = dests.take();
    if (lane < engine.destinations() && !buffer.is_on(engine.lanes()[lane]->device())) {
      throw transfer::Error(Code::kInvalidArgument, 0,
                            "the destination buffer belongs to another device",
                            ErrorSite::of_lane(static_cast<std::int64_t>(lane)));
    }
    with_site([lane] { return ErrorSite::of_lane(static_cast<std::int64_t>(lane)); },
              [&] { check_writable(buffer.get()); });
    out.push_back(&buffer.get());
  }
  return out;
}

// Returns whether this number of bytes is a whole number of blocks with this number of values.
bool are_blocks(std::uint32_t ggml_type, std::size_t bytes, std::size_t values) noexcept {
  const decode::TypeInfo* type = decode::find_type(ggml_type);
  return type != nullptr && bytes % type->block_bytes == 0 && values % type->block_len == 0 &&
         bytes / type->block_bytes == values / type->block_len;
}

}  // namespace

bool cuda_compiled() noexcept {
#ifdef TRANSFER_WITH_CUDA
  return true;
#else
  return false;
#endif
}

rust::Vec<DecoderInfo> decoders() {
  rust::Vec<DecoderInfo> out;
  for (std::size_t i = 0; i < decode::type_count(); ++i) {
    const decode::TypeInfo& type = decode::type_at(i);
    out.push_back({type.id, type.name, type.block_len, type.block_bytes, type.has_tensor_scale});
  }
  return out;
}

bool decode_to_f16(std::uint32_t ggml_type, rust::Slice<const std::uint8_t> blocks,
                   rust::Slice<std::uint16_t> halves, float scale, bool baseline) noexcept {
  if (!are_blocks(ggml_type, blocks.size(), halves.size())) return false;
  const auto decode_all = baseline ? decode::decode_to_f16_baseline : decode::decode_to_f16;
  return halves.empty() ||
         decode_all(ggml_type, blocks.data(), halves.data(), halves.size(), scale);
}

bool decode_to_f32(std::uint32_t ggml_type, rust::Slice<const std::uint8_t> blocks,
                   rust::Slice<float> values) noexcept {
  return are_blocks(ggml_type, blocks.size(), values.size()) &&
         decode::decode_to_f32(ggml_type, blocks.data(), values.data(), values.size());
}

rust::Vec<Digest> digest_with_each_instruction_set(rust::Slice<const std::uint8_t> bytes,
                                                   std::uint64_t offset) {
  return guarded([&] {
    if (offset % kDigestWord != 0) {
      throw Error(Code::kInvalidArgument, 0, "a piece must start at a multiple of 8 bytes");
    }
    return digests_of(
        transfer::digest_with_each_instruction_set(bytes.data(), bytes.size(), offset));
  });
}

rust::Vec<DeviceInfo> cuda_devices() {
  return guarded([] {
    rust::Vec<DeviceInfo> out;
#ifdef TRANSFER_WITH_CUDA
    for (const CudaDeviceInfo& info : list_cuda_devices()) {
      out.push_back({info.ordinal, rust::String::lossy(info.name),
                     rust::String::lossy(info.pci_bus_id), rust::String::lossy(info.identity),
                     info.compute_major, info.compute_minor, info.total_bytes});
    }
#endif
    return out;
  });
}

std::uint64_t ring_bytes(const RingShape& shape) noexcept { return config_of(shape).ring_bytes(); }

std::uint64_t least_chunk_bytes(rust::Slice<const CopyOp> ops) noexcept {
  return transfer::least_chunk_bytes({ops.data(), ops.size()});
}

Memory host_memory_below(rust::Str root, const ProcessLimits& limits) {
  return guarded([&] {
    return memory_of(host_memory(std::string(root), {limits.address_space, limits.data}));
  });
}

std::uint32_t Device::kind() const noexcept { return static_cast<std::uint32_t>(device_->kind()); }

std::int32_t Device::ordinal() const noexcept { return device_->ordinal(); }

rust::String Device::name() const {
  return guarded([&] { return rust::String::lossy(device_->name()); });
}

rust::String Device::identity() const {
  return guarded([&] { return rust::String::lossy(device_->identity()); });
}

Memory Device::memory() const {
  return guarded([&]() -> Memory { return memory_of(device_->memory()); });
}

std::uint64_t Buffer::address() const noexcept {
  return reinterpret_cast<std::uint64_t>(buffer_->data());
}

std::uint64_t Buffer::size() const noexcept { return buffer_->size(); }

void Buffer::read(std::uint64_t offset, rust::Slice<std::uint8_t> out) const {
  guarded([&] {
    // An empty slice carries a dangling pointer.
    if (out.size() == 0) return;
    buffer_->read(offset, reinterpret_cast<std::byte*>(out.data()), out.size());
  });
}

void Buffer::write(std::uint64_t offset, rust::Slice<const std::uint8_t> bytes) {
  guarded([&] {
    if (bytes.size() == 0) return;
    buffer_->write(offset, reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
  });
}

rust::Vec<Digest> Buffer::digests(rust::Slice<const ByteRange> ranges) const {
  return guarded([&] {
    std::vector<transfer::ByteRange> byte_ranges;
    for (const ByteRange& range : ranges) byte_ranges.push_back({range.offset, range.bytes});
    return digests_of(buffer_->digests(byte_ranges));
  });
}

Location Buffer::locate(std::uint64_t offset) const {
  return guarded([&]() -> Location {
    const PointerInfo info = buffer_->locate(offset);
    return {info.address, static_cast<std::uint32_t>(info.kind), info.ordinal};
  });
}

void Buffer::protect() {
  guarded([&] { buffer_->protect(); });
}

rust::Vec<SharedMemory> Buffer::share() {
  return guarded([&] {
    std::vector<MemoryShare> shares = buffer_->share();
    rust::Vec<SharedMemory> out;
    // First, because an exception after release() would leave the descriptor open.
    out.reserve(shares.size());
    for (MemoryShare& share : shares) out.push_back({share.descriptor.release(), share.bytes});
    return out;
  });
}

void Buffer::resize(std::uint64_t bytes) {
  guarded([&] { buffer_->resize(bytes); });
}

void Buffer::give_access(const Device& peer) {
  guarded([&] { buffer_->give_access(*peer.get()); });
}

ExecuteStats Engine::execute(rust::Slice<const SourceInfo> sources, const SourceReaders& readers,
                             std::uint32_t io, rust::Slice<const CopyOp> ops, std::uint32_t units,
                             bool digest, bool timeline, Destinations& dests,
                             ObserverShim& observer) {
  return guarded([&]() -> ExecuteStats {
    if (io > static_cast<std::uint32_t>(Io::kAuto)) {
      throw transfer::Error(Code::kInvalidArgument, 0, "unknown read method");
    }
    const Request request{open_sources(sources, readers, static_cast<Io>(io)),
                          {ops.data(), ops.size()},
                          units,
                          digest,
                          timeline};
    const Stats stats =
        engine_.execute(request, buffers_of(dests, engine_), [&](const Progress& progress) {
          return observer.on_progress(progress.units_done, progress.bytes_done,
                                      {progress.lane_bytes.data(), progress.lane_bytes.size()});
        });
    rust::Vec<OpReport> operations;
    for (const transfer::OpReport& report : stats.operations) {
      operations.push_back({report.operation, report.lane, report.non_finite.infinite,
                            report.non_finite.nan, report.all_zero, digest_of(report.source),
                            digest_of(report.device)});
    }
    rust::Vec<TimelineSpan> spans;
    for (const Span& span : stats.timeline) {
      spans.push_back({span.reader, span.lane, static_cast<std::uint32_t>(span.kind), span.chunk,
                       span.start, span.end, span.first_op, span.op_count});
    }
    rust::Vec<std::uint64_t> link_bytes;
    for (const std::uint64_t bytes : stats.link_bytes) link_bytes.push_back(bytes);
    return {stats.source_bytes,    stats.chunks,     stats.readers,
            stats.seconds,         stats.fell_back,  stats.pinned,
            std::move(link_bytes), std::move(spans), std::move(operations)};
  });
}

std::unique_ptr<Device> open_host() {
  return guarded([] { return std::make_unique<Device>(open_host_device()); });
}

std::unique_ptr<Device> open_cuda(std::int32_t ordinal, [[maybe_unused]] std::int32_t first) {
  return guarded([&]() -> std::unique_ptr<Device> {
#ifdef TRANSFER_WITH_CUDA
    return std::make_unique<Device>(open_cuda_device(ordinal, first));
#else
    throw transfer::Error(
        Code::kDeviceUnavailable, 0,
        "CUDA device " + std::to_string(ordinal) + " is not available: this build has no CUDA");
#endif
  });
}

std::unique_ptr<Buffer> allocate(const Device& device, std::uint64_t bytes) {
  return guarded(
      [&] { return std::make_unique<Buffer>(device.get(), device.get()->allocate(bytes)); });
}

std::unique_ptr<Buffer> allocate_shareable(const Device& device, std::uint64_t bytes) {
  return guarded([&] {
    return std::make_unique<Buffer>(device.get(), device.get()->allocate_shareable(bytes));
  });
}

std::unique_ptr<Buffer> import_memory(const Device& device, rust::Slice<const SharedMemory> shares,
                                      std::uint64_t bytes, bool writable) {
  return guarded([&] {
    std::vector<MemoryShareView> views;
    for (const SharedMemory& share : shares) views.push_back({share.descriptor, share.bytes});
    const Access access = writable ? Access::kReadWrite : Access::kReadOnly;
    return std::make_unique<Buffer>(device.get(),
                                    device.get()->import_memory(views, bytes, access));
  });
}

#ifdef TRANSFER_MEASURE
Rate measure_upload(const Device& device, const UploadShape& shape, std::uint32_t runs) {
  return guarded([&]() -> Rate {
#ifdef TRANSFER_WITH_CUDA
    if (device.get()->kind() == DeviceKind::kCuda) {
      return rate_of(transfer::measure_cuda_upload(
          *device.get(), {shape.chunk_bytes, shape.streams, shape.depth, shape.total_bytes}, runs));
    }
#else
    (void)shape, (void)runs;
#endif
    throw transfer::Error(Code::kInvalidArgument, 0,
                          device.get()->name() + " does not support pinned copies");
  });
}

Rate measure_work(const Device& device, const WorkShape& shape, std::uint32_t runs) {
  return guarded([&]() -> Rate {
    const transfer::WorkShape work = {static_cast<MeasuredWork>(shape.work), shape.ggml_type,
                                      shape.elements, shape.threads};
#ifdef TRANSFER_WITH_CUDA
    if (device.get()->kind() == DeviceKind::kCuda) {
      return rate_of(transfer::measure_cuda_work(*device.get(), work, runs));
    }
#endif
    return rate_of(transfer::measure_host_work(*device.get(), work, runs));
  });
}
#endif

std::unique_ptr<Ring> make_ring(const RingShape& shape) {
  return guarded([&] {
    const EngineConfig config = config_of(shape);
    // Check before any memory is allocated.
    config.check();
    return std::make_unique<Ring>(std::make_unique<StagingRing>(config.ring_bytes()));
  });
}

std::unique_ptr<Engine> make_engine(const LaneDevices& devices, std::uint32_t helpers,
                                    std::unique_ptr<Ring> ring, const RingShape& shape) {
  return guarded([&] {
    std::vector<std::shared_ptr<const transfer::Device>> opened;
    for (std::size_t lane = 0; lane < devices.count(); ++lane) {
      opened.push_back(devices.device(lane).get());
    }
    return std::make_unique<Engine>(opened, helpers, *ring, config_of(shape));
  });
}

}  // namespace phi3::transfer::bridge
