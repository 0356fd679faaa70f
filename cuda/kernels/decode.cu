#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "tiles.cuh"
#include "transfer/decode/registry.hpp"
#include "transfer/half.hpp"
#include "transfer/kernels.hpp"

namespace phi3::transfer::kernels {
namespace {

using decode::TypeList;

__device__ __forceinline__ std::uint32_t bits_from_half2(__half2 value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

__device__ __forceinline__ uint4 pack_computed(const float (&v)[8]) {
  const __half2 a = __floats2half2_rn(v[0], v[1]);
  const __half2 b = __floats2half2_rn(v[2], v[3]);
  const __half2 c = __floats2half2_rn(v[4], v[5]);
  const __half2 d = __floats2half2_rn(v[6], v[7]);
  // One comparison for each pair finds a NaN. A NaN is rare enough for a branch.
  const bool ordered = __hbeq2(a, a) && __hbeq2(b, b) && __hbeq2(c, c) && __hbeq2(d, d);
  if (ordered) {
    return {bits_from_half2(a), bits_from_half2(b), bits_from_half2(c), bits_from_half2(d)};
  }
  std::uint32_t words[4];
  for (int i = 0; i < 4; ++i) {
    words[i] = half_from_computed(v[2 * i]) |
               static_cast<std::uint32_t>(half_from_computed(v[2 * i + 1])) << 16;
  }
  return {words[0], words[1], words[2], words[3]};
}

// The work of a kernel on units of 16 bytes of output. `unit` returns unit number `u` of the tile
// that starts at `src`. `tail` writes the rest of a segment after its last unit.

template <class Type, bool kIsScalar = Type::kBlockLen == 1>
struct Decode {
  static constexpr std::uint32_t kUnitElements = 8;
  static constexpr std::uint32_t kUnitsPerBlock = Type::kBlockLen / kUnitElements;
  static_assert(kUnitsPerTile % kUnitsPerBlock == 0);
  static constexpr std::uint64_t kTileSourceBytes =
      std::uint64_t{kUnitsPerTile / kUnitsPerBlock} * Type::kBlockBytes;

  __device__ static uint4 unit(const std::uint8_t* src, std::uint32_t u,
                               [[maybe_unused]] float scale) {
    const std::uint8_t* block = src + u / kUnitsPerBlock * Type::kBlockBytes;
    float values[8];
    Type::decode8(block, static_cast<int>(u % kUnitsPerBlock), values);
    if constexpr (decode::has_tensor_scale<Type>) {
      for (float& value : values) value *= scale;
    }
    return pack_computed(values);
  }

  __device__ static void tail(const std::uint8_t*, void*, std::uint64_t, std::uint64_t) {}
};

template <class Type>
struct Decode<Type, true> {
  using Word = typename Type::Word;
  static constexpr std::uint32_t kUnitElements = 8;
  static constexpr std::uint64_t kTileSourceBytes =
      std::uint64_t{kUnitsPerTile} * kUnitElements * sizeof(Word);

  __device__ static uint4 unit(const std::uint8_t* src, std::uint32_t u, float) {
    constexpr int kLoads = kUnitElements * sizeof(Word) / sizeof(uint4);
    uint4 loaded[kLoads];
    for (int i = 0; i < kLoads; ++i) {
      loaded[i] = __ldg(reinterpret_cast<const uint4*>(src) + u * kLoads + i);
    }
    Word words[kUnitElements];
    memcpy(words, loaded, sizeof words);
    half_bits halves[kUnitElements];
    for (std::uint32_t i = 0; i < kUnitElements; ++i) {
      halves[i] = Type::value(words[i]);
    }
    uint4 result;
    memcpy(&result, halves, sizeof result);
    return result;
  }

  __device__ static void tail(const std::uint8_t* src, void* dst, std::uint64_t begin,
                              std::uint64_t end) {
    for (std::uint64_t i = begin; i < end; ++i) {
      static_cast<half_bits*>(dst)[i] = Type::value(reinterpret_cast<const Word*>(src)[i]);
    }
  }
};

struct Copy {
  static constexpr std::uint32_t kUnitElements = sizeof(uint4);
  static constexpr std::uint64_t kTileSourceBytes = std::uint64_t{kUnitsPerTile} * sizeof(uint4);

  __device__ static uint4 unit(const std::uint8_t* src, std::uint32_t u, float) {
    return __ldg(reinterpret_cast<const uint4*>(src) + u);
  }

  __device__ static void tail(const std::uint8_t* src, void* dst, std::uint64_t begin,
                              std::uint64_t end) {
    for (std::uint64_t i = begin; i < end; ++i) {
      static_cast<std::uint8_t*>(dst)[i] = src[i];
    }
  }
};

// Writes a unit of a row if the crop keeps it. `number` counts the units of the segment.
__device__ __forceinline__ void store_cropped(const MoveSegment& segment, std::uint64_t number,
                                              uint4 unit) {
  constexpr std::uint32_t kUnitElements = 8;
  const Crop& crop = segment.crop;
  const std::uint32_t row_units = crop.row_elements / kUnitElements;
  const std::uint32_t keep = crop.keep / kUnitElements;
  const std::uint64_t row = number / row_units;
  // Wraps to a large number for units before the first one that is kept.
  const std::uint32_t at =
      static_cast<std::uint32_t>(number - row * row_units) - crop.skip / kUnitElements;
  if (at < keep) static_cast<uint4*>(segment.dst)[row * keep + at] = unit;
}

template <class Work>
__global__ void __launch_bounds__(kThreads)
    move_tile(const __grid_constant__ TiledBatch<MoveSegment> tiled) {
  const Tile tile = this_tile(tiled);
  const MoveSegment& segment = tiled.batch.items[tile.item];
  const std::uint64_t units = segment.elements / Work::kUnitElements;
  const std::uint32_t count = units_of(tile.number, units);
  const std::uint8_t* src = segment.src + tile.number * Work::kTileSourceBytes;
  uint4* dst = static_cast<uint4*>(segment.dst) + tile.number * kUnitsPerTile;
  if (segment.crop.row_elements != 0) {
    for (std::uint32_t u = threadIdx.x; u < count; u += kThreads) {
      store_cropped(segment, tile.number * kUnitsPerTile + u, Work::unit(src, u, segment.scale));
    }
    return;
  }
  for (std::uint32_t u = threadIdx.x; u < count; u += kThreads) {
    dst[u] = Work::unit(src, u, segment.scale);
  }
  if (count < kUnitsPerTile && threadIdx.x == 0) {
    Work::tail(segment.src, segment.dst, units * Work::kUnitElements, segment.elements);
  }
}

template <class Work>
int launch(const LaunchBatch<MoveSegment>& batch, cudaStream_t stream) noexcept {
  return launch_tiles(move_tile<Work>, batch, Work::kUnitElements, stream);
}

template <class... Types>
int launch_decode(TypeList<Types...>, std::uint32_t ggml_type_id,
                  const LaunchBatch<MoveSegment>& batch, cudaStream_t stream) noexcept {
  int status = cudaErrorInvalidValue;
  const bool found =
      ((Types::kTypeId == ggml_type_id && (status = launch<Decode<Types>>(batch, stream), true)) ||
       ...);
  return found ? status : cudaErrorInvalidValue;
}

template <class... Types>
int load_decoder(TypeList<Types...>, std::uint32_t ggml_type_id) noexcept {
  int status = cudaErrorInvalidValue;
  ((Types::kTypeId == ggml_type_id && (status = load(move_tile<Decode<Types>>), true)) || ...);
  return status;
}

}  // namespace

int launch_decode_to_f16(std::uint32_t ggml_type_id, const LaunchBatch<MoveSegment>& batch,
                         cudaStream_t stream) noexcept {
  return launch_decode(decode::Decoders{}, ggml_type_id, batch, stream);
}

int launch_copy(const LaunchBatch<MoveSegment>& batch, cudaStream_t stream) noexcept {
  return launch<Copy>(batch, stream);
}

int load_decoder(std::uint32_t ggml_type_id) noexcept {
  return load_decoder(decode::Decoders{}, ggml_type_id);
}

int load_copy() noexcept { return load(move_tile<Copy>); }

}  // namespace phi3::transfer::kernels
