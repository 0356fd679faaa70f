// Kernels that do not change weights: they count floats that are not finite, and compute digests.
#include <cuda_runtime.h>

#include <cstdint>

#include "tiles.cuh"
#include "transfer/kernels.hpp"

namespace phi3::transfer::kernels {
namespace {

constexpr std::uint32_t kBytesPerUnit = 16;
constexpr unsigned kWholeWarp = 0xffffffff;

// The type that atomics take. It is as wide as std::uint64_t, which is unsigned long here.
using Counter = unsigned long long;
static_assert(sizeof(Counter) == sizeof(std::uint64_t));

// Returns the sum of a value over a warp, in its first thread.
__device__ __forceinline__ std::uint64_t sum_of_warp(std::uint64_t value) {
  for (int distance = 16; distance != 0; distance /= 2) {
    value += __shfl_down_sync(kWholeWarp, value, distance);
  }
  return value;
}

__device__ __forceinline__ void add(std::uint64_t value, std::uint64_t* counter) {
  if (value != 0) atomicAdd(reinterpret_cast<Counter*>(counter), value);
}

// Adds two values of every thread of a block to two counters, with one atomic each. All tiles of a
// tensor add to the same two counters, and these atomics run one after the other.
__device__ __forceinline__ void add_from_block(std::uint64_t a, std::uint64_t b,
                                               std::uint64_t* to_a, std::uint64_t* to_b) {
  constexpr unsigned kWarps = kThreads / 32;
  __shared__ std::uint64_t sums[2][kWarps];
  const std::uint64_t warp_a = sum_of_warp(a);
  const std::uint64_t warp_b = sum_of_warp(b);
  if (threadIdx.x % 32 == 0) {
    sums[0][threadIdx.x / 32] = warp_a;
    sums[1][threadIdx.x / 32] = warp_b;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    std::uint64_t sum = 0;
    for (const std::uint64_t of_warp : sums[threadIdx.x]) sum += of_warp;
    add(sum, threadIdx.x == 0 ? to_a : to_b);
  }
}

template <FloatFormat kFormat>
constexpr std::uint32_t kFloatsPerUnit = kBytesPerUnit / sizeof(typename FloatBits<kFormat>::Word);

template <FloatFormat kFormat>
__device__ __forceinline__ void count_float(typename FloatBits<kFormat>::Word word,
                                            NonFinite& found) {
  using Word = typename FloatBits<kFormat>::Word;
  constexpr Word kInfinity = FloatBits<kFormat>::kInfinity;
  const Word magnitude = word & static_cast<Word>(static_cast<Word>(~Word{0}) >> 1);
  found.infinite += magnitude == kInfinity;
  found.nan += magnitude > kInfinity;
}

// Whether any float of a unit is infinite or NaN. Works on 32 bits at a time: adds a constant with
// which only an exponent of all ones carries into the sign bit.
template <FloatFormat kFormat>
__device__ __forceinline__ bool any_non_finite(const uint4& unit) {
  using Word = typename FloatBits<kFormat>::Word;
  constexpr std::uint32_t kBits = 8 * sizeof(Word);
  constexpr std::uint32_t kRepeat = kBits == 16 ? 0x00010001 : 1;
  // The exponent of a double is in its upper half.
  constexpr std::uint64_t kInfinity = std::uint64_t{FloatBits<kFormat>::kInfinity};
  constexpr std::uint32_t kUpper =
      static_cast<std::uint32_t>(kBits == 64 ? kInfinity >> 32 : kInfinity) * kRepeat;
  constexpr std::uint32_t kSign = (kBits == 16 ? 0x8000u : 0x80000000u) * kRepeat;
  const auto carries = [](std::uint32_t word) { return (word & ~kSign) + (kSign - kUpper); };
  std::uint32_t carried = carries(unit.y) | carries(unit.w);
  if constexpr (kBits != 64) carried |= carries(unit.x) | carries(unit.z);
  return (carried & kSign) != 0;
}

template <FloatFormat kFormat>
__device__ __forceinline__ void count_unit(const uint4& unit, NonFinite& found) {
  // The usual case.
  if (!any_non_finite<kFormat>(unit)) return;
  typename FloatBits<kFormat>::Word words[kFloatsPerUnit<kFormat>];
  memcpy(words, &unit, sizeof words);
  for (const auto word : words) count_float<kFormat>(word, found);
}

template <FloatFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    count_tile(const __grid_constant__ TiledBatch<CountSegment> tiled) {
  const Tile tile = this_tile(tiled);
  const CountSegment& segment = tiled.batch.items[tile.item];
  const std::uint64_t units = segment.elements / kFloatsPerUnit<kFormat>;
  const std::uint32_t count = units_of(tile.number, units);
  const uint4* data = static_cast<const uint4*>(segment.floats) + tile.number * kUnitsPerTile;
  NonFinite found{0, 0};
  for (std::uint32_t u = threadIdx.x; u < count; u += kThreads) {
    count_unit<kFormat>(data[u], found);
  }
  if (count < kUnitsPerTile && threadIdx.x == 0) {
    const auto* words = static_cast<const typename FloatBits<kFormat>::Word*>(segment.floats);
    for (std::uint64_t i = units * kFloatsPerUnit<kFormat>; i < segment.elements; ++i) {
      count_float<kFormat>(words[i], found);
    }
  }
  if (__syncthreads_or(found.infinite != 0 || found.nan != 0) != 0) {
    add_from_block(found.infinite, found.nan, &segment.counters->infinite, &segment.counters->nan);
  }
}

__device__ __forceinline__ void add_word(std::uint64_t word, std::uint64_t index, Digest& digest) {
  const std::uint64_t x = word ^ ((index + 1) * kDigestKeyStep);
  digest.sum += word;
  digest.mix += (x & 0xffffffff) * (x >> 32);
}

__device__ __forceinline__ std::uint64_t word_of(std::uint32_t low, std::uint32_t high) {
  return low | static_cast<std::uint64_t>(high) << 32;
}

// Adds the last bytes of a range, fewer than a unit, as words padded with zeros.
__device__ void add_tail(const DigestSegment& segment, std::uint64_t begin, Digest& digest) {
  for (std::uint64_t start = begin; start < segment.elements; start += kDigestWord) {
    std::uint64_t word = 0;
    for (std::uint64_t i = start; i < segment.elements && i < start + kDigestWord; ++i) {
      word |= static_cast<std::uint64_t>(segment.data[i]) << (8 * (i - start));
    }
    add_word(word, (segment.offset + start) / kDigestWord, digest);
  }
}

__global__ void __launch_bounds__(kThreads)
    digest_tile(const __grid_constant__ TiledBatch<DigestSegment> tiled) {
  const Tile tile = this_tile(tiled);
  const DigestSegment& segment = tiled.batch.items[tile.item];
  const std::uint64_t units = segment.elements / kBytesPerUnit;
  const std::uint32_t count = units_of(tile.number, units);
  const std::uint64_t first_unit = tile.number * kUnitsPerTile;
  const uint4* data = reinterpret_cast<const uint4*>(segment.data) + first_unit;
  const std::uint64_t first_word = segment.offset / kDigestWord + 2 * first_unit;
  Digest digest{0, 0};
  for (std::uint32_t u = threadIdx.x; u < count; u += kThreads) {
    const uint4 unit = data[u];
    add_word(word_of(unit.x, unit.y), first_word + 2 * u, digest);
    add_word(word_of(unit.z, unit.w), first_word + 2 * u + 1, digest);
  }
  if (count < kUnitsPerTile && threadIdx.x == 0) {
    add_tail(segment, units * kBytesPerUnit, digest);
  }
  add_from_block(digest.sum, digest.mix, &segment.digest->sum, &segment.digest->mix);
}

// Calls `use` with the format's kernel and the number of floats in one of its units.
template <class Use>
int with_counter(FloatFormat format, Use&& use) noexcept {
  switch (format) {
    case FloatFormat::kNone:
      break;
    case FloatFormat::kF16:
      return use(count_tile<FloatFormat::kF16>, kFloatsPerUnit<FloatFormat::kF16>);
    case FloatFormat::kBf16:
      return use(count_tile<FloatFormat::kBf16>, kFloatsPerUnit<FloatFormat::kBf16>);
    case FloatFormat::kF32:
      return use(count_tile<FloatFormat::kF32>, kFloatsPerUnit<FloatFormat::kF32>);
    case FloatFormat::kF64:
      return use(count_tile<FloatFormat::kF64>, kFloatsPerUnit<FloatFormat::kF64>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int launch_count_non_finite(FloatFormat format, const LaunchBatch<CountSegment>& batch,
                            cudaStream_t stream) noexcept {
  return with_counter(format, [&](auto kernel, std::uint32_t floats_per_unit) {
    return launch_tiles(kernel, batch, floats_per_unit, stream);
  });
}

int launch_digest(const LaunchBatch<DigestSegment>& batch, cudaStream_t stream) noexcept {
  return launch_tiles(digest_tile, batch, kBytesPerUnit, stream);
}

int load_counter(FloatFormat format) noexcept {
  return with_counter(format, [](auto kernel, std::uint32_t) { return load(kernel); });
}

int load_digest() noexcept { return load(digest_tile); }

}  // namespace phi3::transfer::kernels
