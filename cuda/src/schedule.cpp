#include "transfer/schedule.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include "transfer/decode_host.hpp"
#include "transfer/error.hpp"

namespace transfer {
namespace {

// A gap of padding between neighbours that is cheaper to read than to skip.
constexpr std::uint64_t kMaxGap = 4096;

// Bounds the descriptors of one chunk; 4 MiB of 4 KiB tensors still fit in one.
constexpr std::uint32_t kMaxSegments = 1024;

// More separate copies than this cost more than one copy and a scatter on the device.
constexpr std::uint32_t kMaxDirectSegments = 4;

[[noreturn]] void refuse(std::size_t index, const std::string& why) {
  throw Error(Code::kInvalidArgument, 0, "operation " + std::to_string(index) + ": " + why);
}

// [offset, offset + bytes) lies inside [0, limit), without overflow.
bool inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t limit) {
  return bytes <= limit && offset <= limit - bytes;
}

struct Geometry {
  std::uint64_t block_bytes;
  std::uint64_t block_len;
  std::uint64_t dest_block_bytes;
};

Geometry geometry_of(std::size_t index, std::uint32_t decoder) {
  if (decoder == kCopyBytes) return {1, 1, 1};
  const decode::TypeInfo* type = decode::find_type(decoder);
  if (type == nullptr) refuse(index, "no decoder for ggml type " + std::to_string(decoder));
  return {type->block_bytes, type->block_len, std::uint64_t{type->block_len} * 2};
}

void prove(std::size_t index, const CopyOp& op, const Geometry& geometry, const Bounds& bounds) {
  if (op.unit >= bounds.units) refuse(index, "no such progress unit");
  if (op.file >= bounds.file_bytes.size()) refuse(index, "no such source file");
  if (!inside(op.source_offset, op.source_bytes, bounds.file_bytes[op.file])) {
    refuse(index, "source range leaves the file");
  }
  if (!inside(op.dest_offset, op.dest_bytes, bounds.dest_bytes)) {
    refuse(index, "destination range leaves the buffer");
  }
  if (op.source_bytes % geometry.block_bytes != 0) refuse(index, "source is not whole blocks");
  if (op.dest_bytes % geometry.dest_block_bytes != 0 ||
      op.dest_bytes / geometry.dest_block_bytes != op.source_bytes / geometry.block_bytes) {
    refuse(index, "destination size does not match the conversion");
  }
  if (op.halves && op.dest_bytes % 2 != 0) refuse(index, "half a half at the destination");
  // Kernels store 16 bytes at a time.
  if (op.dest_offset % kDestAlignment != 0) refuse(index, "destination is not 16-byte aligned");
}

void prove_disjoint(const std::vector<CopyOp>& ops) {
  std::vector<std::size_t> order(ops.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return ops[a].dest_offset < ops[b].dest_offset; });
  std::uint64_t end = 0;
  for (std::size_t index : order) {
    if (ops[index].dest_bytes == 0) continue;
    if (ops[index].dest_offset < end) refuse(index, "destination overlaps another operation's");
    end = ops[index].dest_offset + ops[index].dest_bytes;
  }
}

// Pieces of an operation are whole blocks whose byte length keeps the strongest alignment that
// fits into a chunk, so that pieces start as aligned as their tensor did.
std::uint64_t piece_bytes(std::uint64_t block_bytes, std::uint64_t chunk_bytes) {
  for (std::uint64_t alignment : {4096u, 256u, 32u}) {
    const std::uint64_t granule = std::lcm(block_bytes, alignment);
    if (granule <= chunk_bytes) return chunk_bytes / granule * granule;
  }
  return std::lcm(block_bytes, std::uint64_t{32});
}

class Cutter {
 public:
  Cutter(std::uint64_t chunk_bytes, std::uint32_t units) : chunk_bytes_(chunk_bytes) {
    schedule_.unit_bytes.resize(units);
  }

  void add(std::size_t index, const CopyOp& op, const Geometry& geometry) {
    const std::uint64_t piece = piece_bytes(geometry.block_bytes, chunk_bytes_);
    for (std::uint64_t done = 0; done < op.source_bytes;) {
      const std::uint64_t bytes = std::min(piece, op.source_bytes - done);
      append(index, op, geometry, done, bytes);
      done += bytes;
    }
    auto& decoders = schedule_.decoders;
    if (op.decoder != kCopyBytes &&
        std::find(decoders.begin(), decoders.end(), op.decoder) == decoders.end()) {
      decoders.push_back(op.decoder);
    }
    schedule_.unit_bytes[op.unit] += op.source_bytes;
    schedule_.source_bytes += op.source_bytes;
  }

  Schedule finish() {
    for (const Chunk& chunk : schedule_.chunks) {
      schedule_.largest_chunk = std::max(schedule_.largest_chunk, chunk.bytes);
      if (!lands_directly(schedule_.segments_of(chunk), chunk.segment_count)) {
        schedule_.converts = true;
      }
    }
    return std::move(schedule_);
  }

 private:
  void append(std::size_t index, const CopyOp& op, const Geometry& geometry, std::uint64_t done,
              std::uint64_t bytes) {
    const std::uint64_t offset = op.source_offset + done;
    if (!extends(op.file, offset, bytes)) {
      schedule_.chunks.push_back(
          {op.file, offset, 0, static_cast<std::uint32_t>(schedule_.segments.size()), 0});
    }
    Chunk& chunk = schedule_.chunks.back();
    const std::uint64_t blocks = bytes / geometry.block_bytes;
    schedule_.segments.push_back(
        {offset - chunk.source_offset, bytes,
         op.dest_offset + done / geometry.block_bytes * geometry.dest_block_bytes,
         blocks * geometry.dest_block_bytes, blocks * geometry.block_len, done,
         static_cast<std::uint32_t>(index), op.decoder, op.unit, op.halves});
    chunk.segment_count += 1;
    chunk.bytes = offset + bytes - chunk.source_offset;
  }

  // Whether the bytes can join the last chunk.
  bool extends(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) const {
    if (schedule_.chunks.empty()) return false;
    const Chunk& chunk = schedule_.chunks.back();
    const std::uint64_t end = chunk.source_offset + chunk.bytes;
    return chunk.file == file && offset >= end && offset - end <= kMaxGap &&
           chunk.segment_count < kMaxSegments &&
           offset + bytes - chunk.source_offset <= chunk_bytes_;
  }

  std::uint64_t chunk_bytes_;
  Schedule schedule_;
};

}  // namespace

bool lands_directly(const Segment* segments, std::uint32_t count) {
  return count <= kMaxDirectSegments &&
         std::all_of(segments, segments + count,
                     [](const Segment& segment) { return segment.decoder == kCopyBytes; });
}

Schedule cut(const std::vector<CopyOp>& ops, const Bounds& bounds, std::uint64_t chunk_bytes) {
  Cutter cutter(std::max(chunk_bytes, kMinChunkBytes), bounds.units);
  for (std::size_t index = 0; index < ops.size(); ++index) {
    const Geometry geometry = geometry_of(index, ops[index].decoder);
    prove(index, ops[index], geometry, bounds);
    cutter.add(index, ops[index], geometry);
  }
  prove_disjoint(ops);
  return cutter.finish();
}

}  // namespace transfer
