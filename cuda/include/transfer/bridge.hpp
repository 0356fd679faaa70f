// The functions and types that Rust calls. The only header that includes cxx: its types are thin
// handles over the engine's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "rust/cxx.h"
#include "transfer/device.hpp"
#include "transfer/engine.hpp"
#include "transfer/staging_ring.hpp"

namespace phi3::transfer::bridge {

// Shared types, defined by the Rust side of the bridge.
struct ByteRange;
struct DecoderInfo;
struct Digest;
struct DeviceInfo;
struct ExecuteStats;
struct Location;
struct Memory;
struct SharedMemory;
struct ProcessLimits;
struct Rate;
struct RingShape;
struct ReadOutcome;
struct SourceInfo;
struct UploadShape;
struct WorkShape;
struct Destinations;
struct LaneDevices;
struct ObserverShim;
struct SourceReaders;

bool cuda_compiled() noexcept;
rust::Vec<DecoderInfo> decoders();
// Returns false and writes nothing if the sizes do not fit the type, or there is no such decoder.
bool decode_to_f16(std::uint32_t ggml_type, rust::Slice<const std::uint8_t> blocks,
                   rust::Slice<std::uint16_t> halves, float scale, bool baseline) noexcept;
bool decode_to_f32(std::uint32_t ggml_type, rust::Slice<const std::uint8_t> blocks,
                   rust::Slice<float> values) noexcept;
rust::Vec<Digest> digest_with_each_instruction_set(rust::Slice<const std::uint8_t> bytes,
                                                   std::uint64_t offset);
rust::Vec<DeviceInfo> cuda_devices();
std::uint64_t ring_bytes(const RingShape& shape) noexcept;
std::uint64_t least_chunk_bytes(rust::Slice<const CopyOp> ops) noexcept;
// File paths start with `root`.
Memory host_memory_below(rust::Str root, const ProcessLimits& limits);

class Device {
 public:
  explicit Device(std::shared_ptr<const transfer::Device> device) : device_(std::move(device)) {}

  std::uint32_t kind() const noexcept;
  std::int32_t ordinal() const noexcept;
  rust::String name() const;
  rust::String identity() const;
  Memory memory() const;
  const std::shared_ptr<const transfer::Device>& get() const noexcept { return device_; }

 private:
  std::shared_ptr<const transfer::Device> device_;
};

class Buffer {
 public:
  Buffer(std::shared_ptr<const transfer::Device> device,
         std::unique_ptr<transfer::DeviceBuffer> buffer)
      : device_(std::move(device)), buffer_(std::move(buffer)) {}

  std::uint64_t address() const noexcept;
  std::uint64_t size() const noexcept;
  void read(std::uint64_t offset, rust::Slice<std::uint8_t> out) const;
  void write(std::uint64_t offset, rust::Slice<const std::uint8_t> bytes);
  rust::Vec<Digest> digests(rust::Slice<const ByteRange> ranges) const;
  Location locate(std::uint64_t offset) const;
  bool is_writable() const noexcept { return buffer_->is_writable(); }
  bool is_shareable() const noexcept { return buffer_->is_shareable(); }
  bool is_shared() const noexcept { return buffer_->is_shared(); }
  bool may_change() const noexcept { return buffer_->may_change(); }
  void protect();
  // The caller owns the descriptors.
  rust::Vec<SharedMemory> share();
  void resize(std::uint64_t bytes);
  void give_access(const Device& peer);
  transfer::DeviceBuffer& get() noexcept { return *buffer_; }
  bool is_on(const transfer::Device& device) const noexcept {
    return device.kind() == device_->kind() && device.ordinal() == device_->ordinal();
  }

 private:
  // Outlives the buffer.
  std::shared_ptr<const transfer::Device> device_;
  std::unique_ptr<transfer::DeviceBuffer> buffer_;
};

class Ring {
 public:
  explicit Ring(std::unique_ptr<StagingRing> ring) : ring_(std::move(ring)) {}
  std::unique_ptr<StagingRing> take() noexcept { return std::move(ring_); }

 private:
  std::unique_ptr<StagingRing> ring_;
};

// Tells a read of a source whether the engine still needs it.
class Stop {
 public:
  explicit Stop(const std::atomic<bool>& stop) : stop_(stop) {}
  bool is_set() const noexcept { return stop_.load(std::memory_order_relaxed); }

 private:
  const std::atomic<bool>& stop_;
};

class Engine {
 public:
  Engine(const std::vector<std::shared_ptr<const transfer::Device>>& devices, std::uint32_t helpers,
         Ring& ring, const EngineConfig& config)
      : engine_(devices, helpers, ring.take(), config) {}

  std::uint64_t conversion_bytes(std::uint32_t lane) const noexcept {
    return engine_.conversion_bytes(lane);
  }
  ExecuteStats execute(rust::Slice<const SourceInfo> sources, const SourceReaders& readers,
                       std::uint32_t io, rust::Slice<const CopyOp> ops, std::uint32_t units,
                       bool digest, bool timeline, Destinations& dests, ObserverShim& observer);

 private:
  transfer::Engine engine_;
};

std::unique_ptr<Device> open_host();
std::unique_ptr<Device> open_cuda(std::int32_t ordinal, std::int32_t first);
std::unique_ptr<Buffer> allocate(const Device& device, std::uint64_t bytes);
std::unique_ptr<Buffer> allocate_shareable(const Device& device, std::uint64_t bytes);
std::unique_ptr<Buffer> import_memory(const Device& device, rust::Slice<const SharedMemory> shares,
                                      std::uint64_t bytes, bool writable);
#ifdef TRANSFER_MEASURE
Rate measure_upload(const Device& device, const UploadShape& shape, std::uint32_t runs);
Rate measure_work(const Device& device, const WorkShape& shape, std::uint32_t runs);
#endif
std::unique_ptr<Ring> make_ring(const RingShape& shape);
std::unique_ptr<Engine> make_engine(const LaneDevices& devices, std::uint32_t helpers,
                                    std::unique_ptr<Ring> ring, const RingShape& shape);

}  // namespace phi3::transfer::bridge
