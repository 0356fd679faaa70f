// Executes copy operations: parallel readers, a staging ring, asynchronous copies, progress.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/device.hpp"
#include "transfer/lane.hpp"
#include "transfer/progress.hpp"
#include "transfer/source.hpp"
#include "transfer/staging_ring.hpp"
#include "transfer/timeline.hpp"
#include "transfer/view.hpp"

namespace transfer {

struct EngineConfig {
  std::uint32_t readers;          // reader threads, which fill chunks together; at least 1
  std::uint32_t storage_readers;  // where a source wants concurrency, as storage does; no
                                  // fewer than `readers` are taken
  std::uint32_t depth;        // chunks under way at once, each in a slot of the ring; at least 1
  std::uint64_t chunk_bytes;  // largest copy to the device; raised to kMinChunkBytes
  std::uint64_t read_bytes;   // largest read, which is a reader's share of a chunk; rounded down
                              // to whole pages, at least one

  // Throws Error{kInvalidArgument} where no engine takes this.
  void check() const;

  // Of a configuration that an engine takes.
  std::uint64_t slot_bytes() const noexcept;
  std::uint64_t ring_bytes() const noexcept;
};

struct Request {
  std::vector<std::unique_ptr<Source>> sources;
  View<CopyOp> ops;
  std::uint32_t units;
  bool digest;    // whether to digest every operation's bytes, as read and as arrived
  bool timeline;  // whether to note when what was done
};

// What a call found out about one operation.
struct OpReport {
  std::uint32_t operation;  // its index
  std::uint32_t lane;
  NonFinite non_finite;  // among the floats at the destination; zero for other operations
  bool all_zero;         // of the bytes as they were read; false where there are none
  Digest source;         // of the bytes as they were read
  Digest device;         // of the same bytes as they are on the device
};

struct Stats {
  std::uint64_t source_bytes;
  std::uint64_t chunks;
  std::uint32_t readers;             // as configured for such sources; little work takes fewer
  double seconds;                    // from the first read to the last byte landed
  bool fell_back;                    // whether some source was read in another way than asked for
  bool pinned;                       // whether every lane's device has pinned the staging ring
  std::vector<Span> timeline;        // where asked for; in no order
  std::vector<OpReport> operations;  // one an operation; digests are zero where none were asked for
};

// Moves bytes from sources to lanes: the reading side, which all lanes share, and a lane for each
// destination. Keeps its ring pinned and its queues between calls. One call at a time; movable
// between threads.
class Engine {
 public:
  // A lane for each device, in their order. Takes the ring over, which must hold
  // config.ring_bytes(). Throws Error{kInvalidArgument, kDeviceFailure}.
  Engine(const std::vector<std::shared_ptr<const Device>>& devices,
         std::unique_ptr<StagingRing> ring, const EngineConfig& config);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const std::vector<std::unique_ptr<Lane>>& lanes() const noexcept { return lanes_; }

  // Memory of a lane's device that execute() needs beside the destination where chunks do not land
  // directly: where it converts, or scatters many small operations. Kept until the engine goes.
  // 0 where there is no such lane.
  std::uint64_t conversion_bytes(std::size_t lane) const noexcept;

  // Moves every operation's bytes to its lane's destination, which must belong to the lane's
  // device. Returns when all of them have landed; when it throws, nothing is in flight any more and
  // the content of the destinations is unspecified. The observer hears of each finished unit and,
  // while waiting, about fifty times a second. Throws Error{kInvalidArgument, kIo, kFileTruncated,
  // kDeviceFailure, kOutOfMemory, kCancelled}.
  Stats execute(const Request& request, const std::vector<DeviceBuffer*>& dests,
                const Observer& observer);

 private:
  // The least that a lane wants: where one wants chunks that readers fill together, such as a GPU,
  // all chunks are filled so. A link that stands still costs more than memory that is cleared in
  // vain.
  std::uint64_t stretch_bytes() const noexcept;
  void bind_thread();
  void warm_up(const Request& request) noexcept;

  std::unique_ptr<StagingRing> ring_;
  EngineConfig config_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace transfer
