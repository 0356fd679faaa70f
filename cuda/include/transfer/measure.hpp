// Measures the highest rates of a device. Loads are compared with them.
//
// Every function warms up once and then measures `runs` times. Rates are in bytes per second.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "transfer/device.hpp"

namespace phi3::transfer {

// The rates of all repetitions of one measurement.
struct Rate {
  double median;
  double minimum;
  double maximum;
};

// Copies of `chunk_bytes` each, through `streams` queues with `depth` staging slots each, until
// `total_bytes` have been copied.
struct UploadShape {
  std::uint64_t chunk_bytes;
  std::uint32_t streams;
  std::uint32_t depth;
  std::uint64_t total_bytes;
};

enum class MeasuredWork : std::uint32_t {
  kCopy = 0,            // counts bytes read and written
  kDecodeToF16 = 1,     // counts bytes of blocks read and of halves written
  kCountNonFinite = 2,  // counts bytes read
  kDigest = 3,          // counts bytes read
  kCopyToNew = 4,       // like kCopy, to memory that was never written before; only on the host
};

struct WorkShape {
  MeasuredWork work;
  std::uint32_t ggml_type;  // for kDecodeToF16
  std::uint64_t elements;   // halves that are decoded, counted or copied; a multiple of 256
  std::uint32_t threads;    // on the host, each with `elements` of its own; a GPU ignores it
};

// Measures work of a device on bytes that it already holds. On a GPU, a run is one launch of the
// engine's own kernel, or one device-to-device copy, between two events. On the host, all threads
// start at once, and the slowest one decides. Blocks are random, without infinities and NaNs.
// Throws Error{kInvalidArgument} for a type that cannot be decoded, for elements that are not whole
// blocks or exceed any memory, and for work that the device does not support; and the errors of
// allocations.
Rate measure_host_work(const Device& device, const WorkShape& shape, std::uint32_t runs);
#ifdef TRANSFER_WITH_CUDA
Rate measure_cuda_work(const Device& device, const WorkShape& shape, std::uint32_t runs);

// Measures copies from a staging ring, pinned like the engine's own, to one device buffer. This is
// the highest rate that a load could reach if reading cost no time. One thread queues all copies.
// It waits for a slot's last copy before it queues the next copy from that slot. The time is from
// the first call to the arrival of the last byte. Throws Error{kInvalidArgument} if a figure is
// zero, or if the number of bytes exceeds any memory; Error{kDeviceFailure} if memory cannot be
// pinned; and the errors of allocations.
Rate measure_cuda_upload(const Device& device, const UploadShape& shape, std::uint32_t runs);
#endif

// Returns `count` times `each` bytes. Throws Error{kInvalidArgument} if the product exceeds any
// memory.
std::uint64_t measured_bytes(std::uint64_t count, std::uint64_t each);

// Calls `once` to warm up, and then `runs` times. `once` returns the seconds that `bytes` took.
Rate rate_of(std::uint64_t bytes, std::uint32_t runs, const std::function<double()>& once);

// Fills memory with random bytes that no type reads as an infinite or NaN scale or value. Real
// files have none, and a NaN takes a kernel's slow path.
void fill_finite(std::byte* data, std::uint64_t bytes, std::uint64_t seed) noexcept;

// The number of bytes that a work reads and writes. bytes_of() throws like measure_host_work().
struct WorkBytes {
  std::uint64_t read;
  std::uint64_t written;
};
WorkBytes bytes_of(const WorkShape& shape);

}  // namespace phi3::transfer
