// Executes copy operations: parallel readers, a staging ring, asynchronous copies, progress.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/device.hpp"
#include "transfer/lane.hpp"
#include "transfer/progress.hpp"
#include "transfer/routing.hpp"
#include "transfer/source.hpp"
#include "transfer/staging_ring.hpp"
#include "transfer/timeline.hpp"
#include "transfer/view.hpp"

namespace phi3::transfer {

struct EngineConfig {
  std::uint32_t readers;          // reader threads, which fill chunks together; at least 1
  std::uint32_t storage_readers;  // reader threads if a source wants concurrency, as storage does;
                                  // the larger one of this and `readers` is used
  std::uint32_t depth;        // chunks in flight at once, one in each slot of the ring; at least 1
  std::uint64_t chunk_bytes;  // largest copy to the device; raised to kMinChunkBytes
  std::uint64_t read_bytes;   // largest read, which is one reader's share of a chunk; rounded down
                              // to whole pages, at least one page

  // Throws Error{kInvalidArgument} if no engine accepts this configuration.
  void check() const;

  // Require a configuration that passes check().
  std::uint64_t slot_bytes() const noexcept;
  std::uint64_t ring_bytes() const noexcept;
};

struct Request {
  std::vector<std::unique_ptr<Source>> sources;
  View<CopyOp> ops;
  std::uint32_t units;
  bool digest;    // whether to digest every operation's bytes, as read and as arrived
  bool timeline;  // whether to record the times of all steps
};

// The results of a call for one operation.
struct OpReport {
  std::uint32_t operation;  // index of the operation
  std::uint32_t lane;
  NonFinite non_finite;  // among the floats at the destination; zero if the format is kNone
  bool all_zero;         // whether all bytes that were read are zero; false for an empty operation
  Digest source;         // of the bytes as they were read; zero if digests were not requested
  Digest device;         // of the same bytes on the device; zero if digests were not requested
};

struct Stats {
  std::uint64_t source_bytes;
  std::uint64_t chunks;
  std::uint32_t readers;  // as configured for these sources; a small request starts fewer
  double seconds;         // from the first read until the last byte has landed
  bool fell_back;         // whether a source was read in another way than requested
  bool pinned;            // whether the staging ring is pinned for the devices of all lanes
  std::vector<std::uint64_t> link_bytes;  // bytes that went over the link of each lane
  std::vector<Span> timeline;             // empty if not requested; in no order
  std::vector<OpReport> operations;       // one for each operation
};

// Moves bytes from sources to lanes. All lanes share the readers and the staging ring. The ring
// stays pinned and the queues stay open between calls. Executes one call at a time. May be moved
// between threads.
class Engine {
 public:
  // Creates a lane for each device, in their order. The last `helpers` lanes have no destinations:
  // they lend their links to lanes that can take bytes from their devices. Takes ownership of the
  // ring, which must hold config.ring_bytes(). Throws Error{kInvalidArgument, kDeviceFailure}.
  Engine(const std::vector<std::shared_ptr<const Device>>& devices, std::uint32_t helpers,
         std::unique_ptr<StagingRing> ring, const EngineConfig& config);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const std::vector<std::unique_ptr<Lane>>& lanes() const noexcept { return lanes_; }

  // Returns the number of lanes with destinations. They are the first ones.
  std::uint32_t destinations() const noexcept { return links_.destinations; }

  // Returns the bytes that execute() allocates on a lane's device, in addition to the destination,
  // if chunks cannot be copied directly: for conversions, to scatter many small operations, and to
  // hand chunks on to other lanes. The engine keeps this memory. Returns 0 if there is no such
  // lane.
  std::uint64_t conversion_bytes(std::size_t lane) const noexcept;

  // Moves every operation's bytes to its lane's destination, which must belong to the lane's
  // device. Returns when all bytes have landed. If it throws, nothing is in flight any more, and
  // the content of the destinations is unspecified. Calls the observer for each finished unit and,
  // while it waits, about 50 times per second. Throws Error{kInvalidArgument, kIo, kFileTruncated,
  // kDeviceFailure, kOutOfMemory, kCancelled}.
  Stats execute(const Request& request, const std::vector<DeviceBuffer*>& dests,
                const Observer& observer);

 private:
  // Returns the smallest value of all lanes. If one lane is a GPU, readers fill all chunks
  // together: an idle link costs more time than memory pages that two readers clear at once.
  std::uint64_t stretch_bytes() const noexcept;
  void bind_thread();
  void warm_up(const Request& request) noexcept;

  std::unique_ptr<StagingRing> ring_;
  EngineConfig config_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  Links links_;
};

}  // namespace phi3::transfer
