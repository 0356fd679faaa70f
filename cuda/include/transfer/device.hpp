// What the engine needs of a device: memory, buffers, and a queue that moves bytes into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transfer/digest.hpp"
#include "transfer/non_finite.hpp"
#include "transfer/segment.hpp"
#include "transfer/timeline.hpp"

namespace transfer {

class StagingRing;

enum class DeviceKind : std::uint32_t { kHost = 0, kCuda = 1 };

// The limit that decides how much memory is free. Stable numbers: the Rust side decodes them.
enum class MemoryBound : std::uint32_t {
  kDevice = 0,        // the device's own memory
  kCgroup = 1,        // on the host: a memory control group of the process
  kAddressSpace = 2,  // on the host: RLIMIT_AS
  kData = 3,          // on the host: RLIMIT_DATA
};

struct MemoryInfo {
  std::uint64_t free_bytes;
  std::uint64_t total_bytes;
  MemoryBound bound;  // of what is free
};

// Where a pointer lives, as the driver reports it (not as this library remembers it).
struct PointerInfo {
  std::uint64_t address;
  DeviceKind kind;
  std::int32_t ordinal;
};

struct ByteRange {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// Throws Error{kInvalidArgument} where [offset, offset + bytes) leaves a buffer of `size` bytes.
void check_inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size);

// Devices digest 16 bytes at a time. Throws Error{kInvalidArgument}.
void check_digest_start(std::uint64_t offset);

// What a device finds out about the bytes of one operation; pieces add up.
struct OpTally {
  NonFinite non_finite;
  Digest digest;  // of the source bytes, as they are on the device
};

// One allocation on a device. Freed by its destructor, which throws nothing and tolerates a driver
// that has already shut down; a driver frees no memory before the device has done all that it was
// given. Const methods may be called from several threads at once, others from one at a time.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  virtual ~DeviceBuffer() = default;

  // Device address of the first byte; at least 256-byte aligned. Null where size() is 0.
  virtual std::byte* data() const noexcept = 0;
  virtual std::uint64_t size() const noexcept = 0;

  // Copies [offset, offset + bytes) to host memory and waits for it. The range must lie inside the
  // buffer. Throws Error{kInvalidArgument, kDeviceFailure}.
  virtual void read(std::uint64_t offset, std::byte* out, std::uint64_t bytes) const = 0;

  // Copies host memory to [offset, offset + bytes) and waits for it. Throws as read() does.
  virtual void write(std::uint64_t offset, const std::byte* source, std::uint64_t bytes) = 0;

  // Digests of ranges, computed where the memory is. Ranges lie inside the buffer and start on
  // multiples of 16. Throws as read() does.
  virtual std::vector<Digest> digests(const std::vector<ByteRange>& ranges) const = 0;

  // Asks the driver where the byte at `offset`, inside the buffer, lives. Throws as read() does.
  virtual PointerInfo locate(std::uint64_t offset) const = 0;
};

// The floats of one operation at their destination, and where to count infinities and NaNs.
struct Floats {
  FloatFormat format;
  const std::byte* data;
  std::uint64_t count;
  NonFinite* counters;  // in the device's memory
};

// A chunk's segments of one lane, and the chunk's bytes that hold them.
struct Batch {
  const Segment* segments;
  std::uint32_t count;
  std::uint64_t begin;  // bytes from the start of the chunk; a multiple of kPartAlignment
  std::uint64_t end;
  std::byte* dest;      // start of the destination buffer
  OpTally* tallies;     // one an operation, in the device's memory; null where nothing is tallied
  bool digest;          // whether tallies take digests, too
  std::uint64_t chunk;  // its number, for the timeline
};

// The slots of a staging ring, and what a device allocates for each.
struct QueueShape {
  std::uint32_t slots;
  std::uint64_t slot_bytes;  // host staging bytes a slot, slack included
};

// A lane's end of the staging ring. Readers fill the slots together and submit a batch of each to
// every lane that it has bytes for. Usable from several threads at once, where they use different
// slots.
class Queue {
 public:
  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  virtual ~Queue() = default;

  // Destination bytes that one reader had better fill alone, chunk after chunk; 0 where readers had
  // better fill chunks together.
  virtual std::uint64_t stretch_bytes() const noexcept = 0;

  // Allocates what the first conversion would. Throws Error{kOutOfMemory}.
  virtual void prepare_conversions() = 0;

  // Zeroed tallies for a call of so many operations, in the device's memory, which the queue keeps
  // for calls to come. The queue is idle. Waits for nothing but the queue's own work: whoever else
  // uses the device may keep it busy for long. Throws Error{kOutOfMemory, kDeviceFailure}.
  virtual OpTally* open_tallies(std::size_t operations) = 0;

  // What the tallies amount to after finish(). Throws Error{kDeviceFailure}.
  virtual std::vector<OpTally> read_tallies(std::size_t operations) = 0;

  // Makes the calling thread use the queue's device. Throws Error{kDeviceFailure}.
  virtual void bind_thread() = 0;

  // Where a chunk's bytes can be read to with no staging, where all of its segments are in the
  // batch; null where they have to be staged.
  virtual std::byte* destination(const Batch& batch) const noexcept = 0;

  // Queues copies, conversions and digests of the batch, whose chunk starts at `bytes`: in the
  // slot's staging memory, or at the batch's destination(). The slot must be free (never
  // submitted, or awaited since). Does not wait for the device. Throws Error{kDeviceFailure}.
  virtual void submit(std::uint32_t slot, const Batch& batch, const std::byte* bytes) = 0;

  // Waits until the slot's last batch has reached its destination. Throws Error{kDeviceFailure}.
  virtual void await(std::uint32_t slot) = 0;

  // Queues what is to be done with operations once all of their bytes have landed: counting
  // infinities, where submit() has not. Does not wait. Throws Error{kDeviceFailure}.
  virtual void landed(const std::vector<Floats>& floats) = 0;

  // Waits for all that is queued. Throws Error{kDeviceFailure}.
  virtual void finish() = 0;

  // Starts noting when the device works on each of so many chunks, until end_timeline(). The queue
  // is idle.
  virtual void start_timeline(const CallClock& clock, std::size_t chunks) = 0;

  // Appends what was noted, without the lane. The queue is idle. Throws Error{kDeviceFailure}.
  virtual void append_spans(std::vector<Span>& out) = 0;
  virtual void end_timeline() noexcept = 0;

  // Waits for whatever is queued, without reporting failures: for use while unwinding.
  virtual void settle() noexcept = 0;
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  virtual DeviceKind kind() const noexcept = 0;
  virtual std::int32_t ordinal() const noexcept = 0;
  virtual std::string name() const = 0;

  // Empty if the system does not report it.
  virtual std::optional<MemoryInfo> memory() const = 0;

  // Throws Error{kOutOfMemory} where the device cannot hold `bytes`.
  virtual std::unique_ptr<DeviceBuffer> allocate(std::uint64_t bytes) const = 0;

  // Makes staging memory fast for copies to this device (pinned, where it can be). Returns false
  // where the device refused: copies then still work, slower. Undone by release().
  virtual bool adopt(StagingRing& ring) const = 0;
  virtual void release(StagingRing& ring) const noexcept = 0;

  // Loads the code of kernels, which their first use would do. Throws Error{kDeviceFailure,
  // kDeviceUnavailable}.
  virtual void load_code(const KernelUse& kernels) const = 0;

  virtual std::unique_ptr<Queue> make_queue(const QueueShape& shape) const = 0;

  // Device memory that a queue allocates for conversions.
  virtual std::uint64_t conversion_bytes(const QueueShape& shape) const noexcept = 0;
};

// The host's own memory as a device. Always there.
std::shared_ptr<const Device> open_host_device();

}  // namespace transfer
