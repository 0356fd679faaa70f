// How fast a device can be at best: what a load's figures are held against.
//
// Every rate comes from a warm-up and then `runs` timed repetitions, and is in bytes a second.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "transfer/device.hpp"

namespace transfer {

// Of the repetitions of one measurement.
struct Rate {
  double median;
  double minimum;
  double maximum;
};

// Copies of `chunk_bytes` each, `streams` queues with `depth` staging slots each, until
// `total_bytes` have been copied.
struct UploadShape {
  std::uint64_t chunk_bytes;
  std::uint32_t streams;
  std::uint32_t depth;
  std::uint64_t total_bytes;
};

enum class Work : std::uint32_t {
  kCopy = 0,            // counts bytes read and written
  kDecodeToF16 = 1,     // counts bytes of blocks read and of halves written
  kCountNonFinite = 2,  // counts bytes read
  kDigest = 3,          // counts bytes read
  kCopyToNew = 4,       // as kCopy, to memory that nobody has written to yet; on the host only
};

struct WorkShape {
  Work work;
  std::uint32_t ggml_type;  // for kDecodeToF16
  std::uint64_t elements;   // halves that are made, looked at or moved; whole blocks of 256
  std::uint32_t threads;    // on the host, each with `elements` of its own; a GPU ignores it
};

// Measures what a device does with bytes that it already has. Blocks are random, without infinities
// and NaNs. Both throw Error{kInvalidArgument} for a type that cannot be decoded, elements that are
// not whole blocks or more than any memory holds, and work that the device does not do, and
// whatever allocating throws. On the host all threads start at once, and the slowest counts. On a
// GPU it is one launch of the engine's own kernel, or one device-to-device copy, between two
// events.
Rate measure_host_work(const Device& device, const WorkShape& shape, std::uint32_t runs);
#ifdef TRANSFER_WITH_CUDA
Rate measure_cuda_work(const Device& device, const WorkShape& shape, std::uint32_t runs);

// Copies from a staging ring, pinned as the engine pins its own, to one device buffer: what a
// load could reach if its bytes cost nothing to read. One thread queues all copies, and waits for
// a slot's last copy before it queues the next from there. Wall time from the first call to the
// last byte's arrival. Throws Error{kInvalidArgument} where a figure is zero or they are more than
// any memory holds, Error{kDeviceFailure} where memory cannot be pinned, and what allocating
// throws.
Rate measure_cuda_upload(const Device& device, const UploadShape& shape, std::uint32_t runs);
#endif

// `count` times `each` bytes. Throws Error{kInvalidArgument} for what no memory holds.
std::uint64_t measured_bytes(std::uint64_t count, std::uint64_t each);

// Runs `once`, which returns the seconds that `bytes` took, to warm up and then `runs` times.
Rate rate_of(std::uint64_t bytes, std::uint32_t runs, const std::function<double()>& once);

// Fills memory with random bytes that no type reads as an infinite or NaN scale or value: a NaN
// takes a kernel's slow path, and real files have none.
void fill_finite(std::byte* data, std::uint64_t bytes, std::uint64_t seed) noexcept;

// Bytes that `work` reads and writes. Writes nothing where the second is zero. Throws as
// measure_host_work() does.
struct WorkBytes {
  std::uint64_t read;
  std::uint64_t written;
};
WorkBytes bytes_of(const WorkShape& shape);

}  // namespace transfer
