// Spreads a batch of items of any size over one launch. Each thread block handles one tile of one
// item.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "transfer/kernels.hpp"

namespace phi3::transfer::kernels {

// A thread handles 16 bytes at a time, so that a warp accesses 512 consecutive bytes. A tile begins
// at a block boundary of every type.
constexpr std::uint32_t kThreads = 256;
constexpr std::uint32_t kUnitsPerThread = 4;
constexpr std::uint32_t kUnitsPerTile = kThreads * kUnitsPerThread;

// The batch and, for each item, the number of the tile after its last one. Unused entries repeat
// the last number.
template <class Item>
struct TiledBatch {
  LaunchBatch<Item> batch;
  std::uint32_t tile_end[kMaxBatch];
};

struct Tile {
  std::uint32_t item;
  std::uint64_t number;  // within its item
};

// Returns the tile of this thread block, which is in the first item that ends after it.
template <class Item>
__device__ __forceinline__ Tile this_tile(const TiledBatch<Item>& tiled) {
  static_assert((kMaxBatch & (kMaxBatch - 1)) == 0);
  std::uint32_t index = 0;
  for (std::uint32_t step = kMaxBatch / 2; step != 0; step /= 2) {
    if (blockIdx.x >= tiled.tile_end[index + step - 1]) {
      index += step;
    }
  }
  const std::uint32_t first = index == 0 ? 0 : tiled.tile_end[index - 1];
  return {index, blockIdx.x - first};
}

// Returns the number of 16-byte units in a tile of an item with `units` units.
__device__ __forceinline__ std::uint32_t units_of(std::uint64_t tile, std::uint64_t units) {
  const std::uint64_t left = units - tile * kUnitsPerTile;
  return left < kUnitsPerTile ? static_cast<std::uint32_t>(left) : kUnitsPerTile;
}

template <class Kernel>
int load(Kernel* kernel) noexcept {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
}

// Launches `kernel` over all tiles. A unit is `elements_per_unit` elements of an item.
template <class Item>
int launch_tiles(void (*kernel)(TiledBatch<Item>), const LaunchBatch<Item>& batch,
                 std::uint64_t elements_per_unit, cudaStream_t stream) noexcept {
  static_assert(sizeof(TiledBatch<Item>) <= 4096,
                "the size that every device takes as kernel parameters");
  if (batch.count > kMaxBatch) {
    return cudaErrorInvalidValue;
  }
  const std::uint64_t elements_per_tile = kUnitsPerTile * elements_per_unit;
  TiledBatch<Item> tiled;
  tiled.batch = batch;
  std::uint64_t tiles = 0;
  for (std::uint32_t i = 0; i < kMaxBatch; ++i) {
    // On the device, a misaligned access would be an error that ends the whole context.
    if (i < batch.count && !batch.items[i].is_aligned()) {
      return cudaErrorMisalignedAddress;
    }
    const std::uint64_t elements = i < batch.count ? batch.items[i].elements : 0;
    tiles += elements / elements_per_tile + (elements % elements_per_tile != 0);
    if (tiles > std::numeric_limits<std::int32_t>::max()) {
      return cudaErrorInvalidValue;
    }
    tiled.tile_end[i] = static_cast<std::uint32_t>(tiles);
  }
  if (tiles == 0) {
    return cudaSuccess;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, tiled);
}

}  // namespace phi3::transfer::kernels
