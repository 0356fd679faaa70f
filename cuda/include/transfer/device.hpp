// The engine's interface to a device: memory, buffers, and a queue that moves bytes into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transfer/call_clock.hpp"
#include "transfer/descriptor.hpp"
#include "transfer/digest.hpp"
#include "transfer/kernel_use.hpp"
#include "transfer/non_finite.hpp"
#include "transfer/segment.hpp"
#include "transfer/timeline.hpp"

namespace phi3::transfer {

class Device;
class DeviceBuffer;
class StagingRing;

enum class DeviceKind : std::uint32_t { kHost = 0, kCuda = 1 };

// The limit that decides how much memory is free. Stable numbers, which the Rust side decodes.
enum class MemoryBound : std::uint32_t {
  kDevice = 0,        // the device's own memory
  kCgroup = 1,        // on the host: a memory control group of the process
  kAddressSpace = 2,  // on the host: RLIMIT_AS
  kData = 3,          // on the host: RLIMIT_DATA
};

struct MemoryInfo {
  std::uint64_t free_bytes;
  std::uint64_t total_bytes;
  MemoryBound bound;  // the limit that decides free_bytes
};

// The memory that a pointer points into, as reported by the driver (not by this library).
struct PointerInfo {
  std::uint64_t address;
  DeviceKind kind;
  std::int32_t ordinal;
};

struct ByteRange {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// Throws Error{kInvalidArgument} if [offset, offset + bytes) is not inside a buffer of `size`
// bytes.
void check_inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size);

// Throws Error{kInvalidArgument} if this process cannot write to the buffer.
void check_writable(const DeviceBuffer& buffer);

// Throws Error{kInvalidArgument} if `offset` is not a multiple of 16. Devices digest 16 bytes at a
// time.
void check_digest_start(std::uint64_t offset);

// The results of a device for the bytes of one operation. Results of pieces add up.
struct OpTally {
  NonFinite non_finite;
  Digest digest;  // of the source bytes, computed on the device
};

// A file descriptor of memory on a device, and the number of bytes of that memory. The memory
// exists as long as a process has such a descriptor or has mapped the memory, even if that process
// uses no device.
struct MemoryShare {
  Descriptor descriptor;
  std::uint64_t bytes;
};

// The same for a descriptor that someone else owns.
struct MemoryShareView {
  int descriptor;
  std::uint64_t bytes;
};

enum class Access : std::uint32_t { kReadOnly = 0, kReadWrite = 1 };

// One allocation on a device. The destructor frees it, throws nothing, and tolerates a driver that
// has already shut down. A driver frees memory only after the device has finished all queued work.
// Const methods may be called from several threads at once, other methods from one at a time.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  virtual ~DeviceBuffer() = default;

  // Returns the device address of the first byte, aligned to at least 256 bytes; null if size() is
  // 0.
  virtual std::byte* data() const noexcept = 0;
  virtual std::uint64_t size() const noexcept = 0;

  // Copies [offset, offset + bytes) to host memory and waits for the copy. The range must lie
  // inside the buffer. Throws Error{kInvalidArgument, kDeviceFailure}.
  virtual void read(std::uint64_t offset, std::byte* out, std::uint64_t bytes) const = 0;

  // Copies host memory to [offset, offset + bytes) and waits for the copy. Throws like read().
  virtual void write(std::uint64_t offset, const std::byte* source, std::uint64_t bytes) = 0;

  // Returns digests of ranges, computed on the device. Ranges must lie inside the buffer and start
  // on multiples of 16 bytes. Throws like read().
  virtual std::vector<Digest> digests(const std::vector<ByteRange>& ranges) const = 0;

  // Asks the driver which memory holds the byte at `offset`, inside the buffer. Throws like read().
  virtual PointerInfo locate(std::uint64_t offset) const = 0;

  // Whether this process can write to the memory through data().
  virtual bool is_writable() const noexcept { return true; }

  // On the host, whether another process may be able to write to the memory.
  virtual bool may_change() const noexcept { return false; }

  // Whether share() and the methods below can be called.
  virtual bool is_shareable() const noexcept { return false; }

  // Whether other processes may use the memory.
  virtual bool is_shared() const noexcept { return false; }

  // The methods below are for memory of Device::allocate_shareable() and import_memory(). For other
  // memory they throw Error{kInvalidArgument}.

  // Makes the memory read-only for this process, at the same address. No work may be writing to it.
  // Throws Error{kDeviceFailure}.
  virtual void protect();

  // Returns descriptors of the memory, in the order of the addresses. The size can no longer change
  // then. On the host, memory that was protected can never be written again, by any process.
  // Throws Error{kDeviceFailure}.
  virtual std::vector<MemoryShare> share();

  // Changes the size, keeps as much of the memory as possible, and makes it writable. Address and
  // content are unspecified afterwards. Waits for all work of the device. Not for memory that is
  // shared. If it throws Error{kOutOfMemory, kDeviceFailure}, the buffer is empty.
  virtual void resize(std::uint64_t bytes);

  // Lets another device read the memory, and write to it unless it is protected. Throws
  // Error{kDeviceFailure}.
  virtual void give_access(const Device& peer);
};

// The floats of one operation at their destination, and the counters of infinities and NaNs.
struct Floats {
  FloatFormat format;
  const std::byte* data;
  std::uint64_t count;
  NonFinite* counters;  // in the device's memory
};

// The segments of a chunk for one lane, and the range of the chunk that holds them.
struct Batch {
  const Segment* segments;
  std::uint32_t count;
  std::uint64_t begin;  // bytes from the start of the chunk; a multiple of kPartAlignment
  std::uint64_t end;
  std::byte* dest;   // start of the destination buffer
  OpTally* tallies;  // one for each operation, in the device's memory; null if nothing is tallied
  bool digest;       // whether tallies include digests
  std::uint64_t chunk;  // the chunk's number, for the timeline
};

// A range of a chunk that goes over one link to one device. The lanes that need it take it from
// there.
struct Cargo {
  std::uint64_t begin;  // bytes from the start of the chunk; a multiple of kPartAlignment
  std::uint64_t end;
  std::uint64_t chunk;  // the chunk's number, for the timeline
};

// The slots of a staging ring. A device may allocate memory for each of them.
struct QueueShape {
  std::uint32_t slots;
  std::uint64_t slot_bytes;  // bytes of one slot in host memory, slack included
};

// Moves bytes from the staging ring to one lane. Readers fill a slot together, and submit a batch
// of it to every lane that has bytes in it. Several threads may use the queue at once if they use
// different slots.
class Queue {
 public:
  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  virtual ~Queue() = default;

  // Preferred contiguous destination bytes per reader; 0 if readers should fill chunks together.
  virtual std::uint64_t stretch_bytes() const noexcept = 0;

  // Allocates the memory for conversions, which the first conversion would do otherwise. Throws
  // Error{kOutOfMemory}.
  virtual void prepare_conversions() = 0;

  // Returns zeroed tallies for a call with this number of operations. They are in the device's
  // memory, which the queue keeps for later calls. The queue must be idle. Waits only for the
  // queue's own work, because other users of the device may keep it busy for long. Throws
  // Error{kOutOfMemory, kDeviceFailure}.
  virtual OpTally* open_tallies(std::size_t operations) = 0;

  // Returns the final tallies after finish(). Throws Error{kDeviceFailure}.
  virtual std::vector<OpTally> read_tallies(std::size_t operations) = 0;

  // Makes the calling thread use the queue's device. Throws Error{kDeviceFailure}.
  virtual void bind_thread() = 0;

  // Whether submit() itself does the work, so that the calling thread spends its time on it.
  virtual bool works_in_submit() const noexcept { return false; }

  // Returns the address to which a chunk can be read without staging; null if it must be staged.
  // The batch holds all segments of the chunk.
  virtual std::byte* destination(const Batch& batch) const noexcept = 0;

  // Queues copies, conversions and digests of the batch. `bytes` is the start of its chunk, in the
  // slot's staging memory or at the batch's destination(). The slot must be free: never submitted,
  // or awaited since. Does not wait for the device. Throws Error{kDeviceFailure}.
  virtual void submit(std::uint32_t slot, const Batch& batch, const std::byte* bytes) = 0;

  // Queues a copy of the range [begin, end) of a chunk to the queue's own memory, from where queues
  // take() it. `bytes` is the start of the chunk, as for submit(). Only for devices from which a
  // device can take bytes. Throws Error{kDeviceFailure}.
  virtual void carry(std::uint32_t slot, const Cargo& cargo, const std::byte* bytes);

  // Does the work of submit(), with the bytes that carry() of the carrier has queued in the same
  // slot. The batch lies in their range. The carrier can be this queue. Throws
  // Error{kDeviceFailure}.
  virtual void take(std::uint32_t slot, const Batch& batch, const Queue& carrier);

  // Waits until the slot's last batch has landed. Throws Error{kDeviceFailure}.
  virtual void await(std::uint32_t slot) = 0;

  // Queues the work that needs all bytes of an operation: counts infinities and NaNs, unless
  // submit() has counted them. Does not wait. Throws Error{kDeviceFailure}.
  virtual void count_floats(const std::vector<Floats>& floats) = 0;

  // Waits for all queued work. Throws Error{kDeviceFailure}.
  virtual void finish() = 0;

  // Starts to record when the device works on each chunk, until end_timeline(). `chunks` is their
  // number. The queue must be idle.
  virtual void start_timeline(const CallClock& clock, std::size_t chunks) = 0;

  // Appends the recorded spans, without the lane. The queue must be idle. Throws
  // Error{kDeviceFailure}.
  virtual void append_spans(std::vector<Span>& out) = 0;
  virtual void end_timeline() noexcept = 0;

  // Waits for all queued work and reports no failures. For use while unwinding.
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

  // Returns a text of printable ASCII that no other device of this machine has, and that does not
  // change when the machine starts again or devices are hidden.
  virtual std::string identity() const = 0;

  // Empty if the system does not report it.
  virtual std::optional<MemoryInfo> memory() const = 0;

  // Whether queues of this device can take bytes from queues of the other device, without a copy in
  // host memory. Prepares the devices for that. Throws Error{kDeviceFailure}.
  virtual bool can_take_from(const Device&) const { return false; }

  // Throws Error{kOutOfMemory} if the device cannot hold `bytes`.
  virtual std::unique_ptr<DeviceBuffer> allocate(std::uint64_t bytes) const = 0;

  // Allocates memory that can be shared with other processes, protected and resized. A process that
  // uses it needs as much device memory as for allocate(), rounded up. Throws like allocate().
  virtual std::unique_ptr<DeviceBuffer> allocate_shareable(std::uint64_t bytes) const = 0;

  // Maps the memory of descriptors that share() of a buffer of this device returned, perhaps in
  // another process. Keeps copies of the descriptors. `bytes` is the size of that buffer. Throws
  // Error{kForeignMemory} if the descriptors are something else.
  virtual std::unique_ptr<DeviceBuffer> import_memory(const std::vector<MemoryShareView>& shares,
                                                      std::uint64_t bytes, Access access) const = 0;

  // Pins staging memory for fast copies to this device, if the device supports that. Returns false
  // if the device refuses: copies then still work, but are slower. unpin() undoes it.
  virtual bool pin(StagingRing& ring) const = 0;
  virtual void unpin(StagingRing& ring) const noexcept = 0;

  // Loads the code of kernels, which their first use would do otherwise. Throws
  // Error{kDeviceFailure, kDeviceUnavailable}.
  virtual void load_code(const KernelUse& kernels) const = 0;

  virtual std::unique_ptr<Queue> make_queue(const QueueShape& shape) const = 0;

  // Returns the bytes of device memory that a queue allocates for conversions.
  virtual std::uint64_t conversion_bytes(const QueueShape& shape) const noexcept = 0;
};

// Opens the host's own memory as a device. It is always available.
std::shared_ptr<const Device> open_host_device();

}  // namespace phi3::transfer
