// Executes copy operations: parallel readers, a staging ring, asynchronous copies, progress.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "transfer/copy_op.hpp"
#include "transfer/device.hpp"
#include "transfer/source.hpp"
#include "transfer/staging_ring.hpp"
#include "transfer/view.hpp"

namespace transfer {

struct EngineConfig {
  std::uint32_t readers;          // reader threads, which fill chunks together; at least 1
  std::uint32_t storage_readers;  // where bytes come from storage, which keeps readers waiting; no
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
  std::vector<SourceFile> files;
  Io io;
  View<CopyOp> ops;
  std::uint32_t units;
  bool digest;    // whether to digest every operation's bytes, as read and as arrived
  bool timeline;  // whether to note when what was done
};

struct Progress {
  std::uint32_t units_done;  // units 0..units_done have landed, in order
  std::uint64_t bytes_done;  // source bytes that have landed
};

// Called on the thread that called execute(), never concurrently; returns false to cancel.
using Observer = std::function<bool(const Progress&)>;

// What a call found out about one operation.
struct OpReport {
  NonFinite non_finite;  // among the floats at the destination; zero for other operations
  bool all_zero;         // of the bytes as they were read; false where there are none
  Digest source;         // of the bytes as they were read
  Digest device;         // of the same bytes as they are on the device
};

struct Stats {
  std::uint64_t source_bytes;
  std::uint64_t chunks;
  std::uint32_t readers;             // as configured for such a source; little work takes fewer
  double seconds;                    // from the first read to the last byte landed
  Io io;                             // what the source used in fact
  bool pinned;                       // whether the device pinned the staging ring
  std::vector<Span> timeline;        // where asked for; in no order
  std::vector<OpReport> operations;  // one an operation; digests are zero where none were asked for
};

// Bound to one device; keeps its ring pinned and its queue between calls. One call at a time;
// movable between threads.
class Engine {
 public:
  // Takes the ring over, which must hold config.ring_bytes(). Throws Error{kInvalidArgument,
  // kDeviceFailure}.
  Engine(std::shared_ptr<const Device> device, std::unique_ptr<StagingRing> ring,
         const EngineConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Device memory that execute() needs beside the destination where chunks do not land directly:
  // where it converts, or scatters many small operations. Kept until the engine goes.
  std::uint64_t conversion_bytes() const noexcept;

  // Moves every operation's bytes to `dest`, which must belong to this engine's device. Returns
  // when all of them have landed; when it throws, nothing is in flight any more and the content
  // of `dest` is unspecified. The observer hears of each finished unit and, while waiting, about
  // fifty times a second. Throws Error{kInvalidArgument, kIo, kFileTruncated, kDeviceFailure,
  // kOutOfMemory, kCancelled}.
  Stats execute(const Request& request, DeviceBuffer& dest, const Observer& observer);

 private:
  std::shared_ptr<const Device> device_;
  std::unique_ptr<StagingRing> ring_;
  EngineConfig config_;
  bool pinned_;
  std::unique_ptr<Queue> queue_;
};

}  // namespace transfer
