#include "transfer/schedule.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>

#include "transfer/decode/registry.hpp"
#include "transfer/decode_host.hpp"
#include "transfer/error.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

// Padding between neighbours up to this size is cheaper to read than to skip.
constexpr std::uint64_t kMaxGap = 4096;

// The first chunk is small, so that the device can start early. Each later chunk is twice as large
// as the one before, up to the requested size.
constexpr std::uint64_t kFirstChunk = std::uint64_t{4} << 20;

// A tensor is split to fill a chunk only if at least one part in this many of the chunk is empty.
// Chunks of equal size keep as many bytes in flight as the ring can hold.
constexpr std::uint64_t kLeastSplit = 8;

[[noreturn]] void refuse(std::size_t index, const std::string& why, std::int64_t lane = kUnknown) {
  throw Error(Code::kInvalidArgument, 0, "operation " + std::to_string(index) + ": " + why,
              {kUnknown, static_cast<std::int64_t>(index), lane});
}

// Whether [offset, offset + bytes) lies inside [0, limit). Does not overflow.
bool inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t limit) {
  return bytes <= limit && offset <= limit - bytes;
}

struct Geometry {
  std::uint64_t block_bytes;
  std::uint64_t block_len;
  std::uint64_t dest_block_bytes;
  bool has_tensor_scale;
};

Geometry geometry_of(std::size_t index, const Conversion& conversion) {
  if (conversion.kind == ConversionKind::kCopy) return {1, 1, 1, false};
  const decode::TypeInfo* type = decode::find_type(conversion.ggml_type);
  if (type == nullptr) {
    refuse(index, "no decoder for ggml type " + std::to_string(conversion.ggml_type));
  }
  return {type->block_bytes, type->block_len, std::uint64_t{type->block_len} * 2,
          type->has_tensor_scale};
}

std::uint32_t decoder_of(const Conversion& conversion) {
  return conversion.kind == ConversionKind::kCopy ? kCopyBytes : conversion.ggml_type;
}

float scale_of(const Conversion& conversion) {
  return conversion.kind == ConversionKind::kScaledToF16 ? conversion.scale : 1.0f;
}

void check_op(std::size_t index, const CopyOp& op, const Geometry& geometry, const Bounds& bounds) {
  if (op.unit >= bounds.units) refuse(index, "the progress unit does not exist");
  if (op.source >= bounds.source_bytes.size()) {
    refuse(index, "the source does not exist in the request");
  }
  if (!inside(op.source_offset, op.source_bytes, bounds.source_bytes[op.source])) {
    refuse(index, "the source range exceeds the source");
  }
  if (op.lane >= bounds.dest_bytes.size()) refuse(index, "the lane does not exist");
  if (!inside(op.dest_offset, op.dest_bytes, bounds.dest_bytes[op.lane])) {
    refuse(index, "the destination range exceeds the buffer", op.lane);
  }
  if (op.source_bytes % geometry.block_bytes != 0) {
    refuse(index, "the source size is not a multiple of the block size");
  }
  if (op.dest_bytes % geometry.dest_block_bytes != 0 ||
      op.dest_bytes / geometry.dest_block_bytes != op.source_bytes / geometry.block_bytes) {
    refuse(index, "the destination size does not match the conversion");
  }
  // The negated form also refuses NaN.
  if (!geometry.has_tensor_scale && !(scale_of(op.conversion) == 1.0f)) {
    refuse(index, "the type does not support a tensor scale");
  }
  if (static_cast<std::uint32_t>(op.floats) >= kFloatFormats) {
    refuse(index, "the float format is unknown");
  }
  if (op.dest_bytes % float_bytes(op.floats) != 0) {
    refuse(index, "the destination size is not a multiple of the float size");
  }
  if (op.columns.row_bytes != 0) refuse(index, "columns cannot be moved");
  // Kernels store 16 bytes at a time.
  if (op.dest_offset % kDestAlignment != 0)
    refuse(index, "the destination is not 16-byte aligned", op.lane);
}

void check_disjoint(View<CopyOp> ops) {
  std::vector<std::size_t> order(ops.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(ops[a].lane, ops[a].dest_offset) < std::tie(ops[b].lane, ops[b].dest_offset);
  });
  std::uint32_t lane = 0;
  std::uint64_t end = 0;
  for (std::size_t index : order) {
    const CopyOp& op = ops[index];
    if (op.dest_bytes == 0) continue;
    if (op.lane != lane) end = 0;
    if (op.dest_offset < end)
      refuse(index, "the destination overlaps that of another operation", op.lane);
    lane = op.lane;
    end = op.dest_offset + op.dest_bytes;
  }
}

constexpr std::uint64_t kLeastAlignment = 32;

// The smallest chunk must hold a piece of every type. Otherwise a tensor could not be cut
// completely.
template <class... Types>
constexpr bool holds_a_piece(decode::TypeList<Types...>) {
  return ((std::lcm(std::uint64_t{Types::kBlockBytes}, kLeastAlignment) <= kMinChunkBytes) && ...);
}
static_assert(holds_a_piece(decode::Decoders{}));

// Returns the bytes of the largest piece that fits in `room`; 0 if none fits. A piece is whole
// blocks. Its size keeps the strongest alignment that fits, so that pieces start as aligned as
// their tensor did.
std::uint64_t piece_bytes(std::uint64_t block_bytes, std::uint64_t room) {
  for (std::uint64_t alignment : {std::uint64_t{4096}, std::uint64_t{256}, kLeastAlignment}) {
    const std::uint64_t granule = std::lcm(block_bytes, alignment);
    if (granule <= room) return room / granule * granule;
  }
  return 0;
}

template <class Value>
void add_once(std::vector<Value>& values, Value value) {
  if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
}

class Cutter {
 public:
  Cutter(std::uint64_t chunk_bytes, std::size_t lanes, std::uint32_t units)
      : chunk_bytes_(chunk_bytes) {
    schedule_.lanes.resize(lanes);
    for (LaneLoad& lane : schedule_.lanes) lane.unit_bytes.resize(units);
  }

  void add(std::size_t index, const CopyOp& op, const Geometry& geometry) {
    for (std::uint64_t done = 0; done < op.source_bytes;) {
      const std::uint64_t offset = op.source_offset + done;
      const std::uint64_t left = op.source_bytes - done;
      std::uint64_t bytes = next_piece(geometry, left, room_at(op.source, offset));
      if (bytes == 0) {
        const auto first_segment = static_cast<std::uint32_t>(schedule_.segments.size());
        schedule_.chunks.push_back({op.source, offset, 0, first_segment, 0, 0, 0});
        bytes = next_piece(geometry, left, limit());
      }
      append(index, op, geometry, done, bytes);
      done += bytes;
    }
    LaneLoad& lane = schedule_.lanes[op.lane];
    const std::uint32_t decoder = decoder_of(op.conversion);
    if (decoder != kCopyBytes) add_once(lane.kernels.decoders, decoder);
    if (op.floats != FloatFormat::kNone) add_once(lane.kernels.floats, op.floats);
    lane.unit_bytes[op.unit] += op.source_bytes;
    schedule_.source_bytes += op.source_bytes;
  }

  Schedule finish() {
    schedule_.parts.reserve(schedule_.chunks.size());
    for (Chunk& chunk : schedule_.chunks) append_parts(chunk);
    for (const Part& part : schedule_.parts) {
      const View<Segment> segments = schedule_.segments_of(part);
      if (!lands_directly(segments.data, part.segment_count)) {
        schedule_.lanes[part.lane].kernels.converts = true;
      }
    }
    return std::move(schedule_);
  }

 private:
  // Groups the segments by lane, each lane in the order of the source, and appends a part for each
  // lane.
  void append_parts(Chunk& chunk) {
    Segment* const first = schedule_.segments.data() + chunk.first_segment;
    Segment* const end = first + chunk.segment_count;
    if (schedule_.lanes.size() > 1) {
      std::sort(first, end, [](const Segment& a, const Segment& b) {
        return std::tie(a.lane, a.chunk_offset) < std::tie(b.lane, b.chunk_offset);
      });
    }
    chunk.first_part = static_cast<std::uint32_t>(schedule_.parts.size());
    for (Segment* begin = first; begin != end; chunk.part_count += 1) {
      Segment* const next = std::find_if(
          begin, end, [&](const Segment& segment) { return segment.lane != begin->lane; });
      schedule_.parts.push_back({begin->lane,
                                 static_cast<std::uint32_t>(begin - schedule_.segments.data()),
                                 static_cast<std::uint32_t>(next - begin),
                                 round_down(begin->chunk_offset, kPartAlignment),
                                 next[-1].chunk_offset + next[-1].source_bytes});
      begin = next;
    }
  }

  // Returns the largest size of a chunk at this point.
  std::uint64_t limit() const {
    std::uint64_t limit = kFirstChunk;
    for (std::size_t i = 1; i < schedule_.chunks.size() && limit < chunk_bytes_; ++i) limit *= 2;
    return std::min(limit, chunk_bytes_);
  }

  // Returns the bytes from `offset` on that can join the last chunk.
  std::uint64_t room_at(std::uint32_t source, std::uint64_t offset) const {
    if (schedule_.chunks.empty()) return 0;
    const Chunk& chunk = schedule_.chunks.back();
    const std::uint64_t end = chunk.source_offset + chunk.bytes;
    const bool joins = chunk.source == source && offset >= end && offset - end <= kMaxGap &&
                       chunk.segment_count < kMaxSegments;
    const std::uint64_t room_end = chunk.source_offset + limit();
    return joins && offset < room_end ? room_end - offset : 0;
  }

  // Returns the bytes of the next piece, at most `left`; 0 if too few fit to be worth a copy.
  std::uint64_t next_piece(const Geometry& geometry, std::uint64_t left, std::uint64_t room) const {
    if (left <= room) return left;
    return room < limit() / kLeastSplit ? 0 : piece_bytes(geometry.block_bytes, room);
  }

  void append(std::size_t index, const CopyOp& op, const Geometry& geometry, std::uint64_t done,
              std::uint64_t bytes) {
    Chunk& chunk = schedule_.chunks.back();
    const std::uint64_t offset = op.source_offset + done;
    const std::uint64_t blocks = bytes / geometry.block_bytes;
    schedule_.segments.push_back(
        {offset - chunk.source_offset, bytes,
         op.dest_offset + done / geometry.block_bytes * geometry.dest_block_bytes,
         blocks * geometry.dest_block_bytes, blocks * geometry.block_len, done,
         static_cast<std::uint32_t>(index), op.lane, decoder_of(op.conversion), op.unit, op.floats,
         scale_of(op.conversion)});
    chunk.segment_count += 1;
    chunk.bytes = offset + bytes - chunk.source_offset;
  }

  std::uint64_t chunk_bytes_;
  Schedule schedule_;
};

}  // namespace

std::vector<std::uint64_t> Schedule::unit_bytes() const {
  std::vector<std::uint64_t> sums = lanes.front().unit_bytes;
  for (std::size_t lane = 1; lane < lanes.size(); ++lane) {
    for (std::size_t unit = 0; unit < sums.size(); ++unit) {
      sums[unit] += lanes[lane].unit_bytes[unit];
    }
  }
  return sums;
}

Schedule cut(View<CopyOp> ops, const Bounds& bounds, std::uint64_t chunk_bytes) {
  Cutter cutter(std::max(chunk_bytes, kMinChunkBytes), bounds.dest_bytes.size(), bounds.units);
  for (std::size_t index = 0; index < ops.size(); ++index) {
    const Geometry geometry = geometry_of(index, ops[index].conversion);
    check_op(index, ops[index], geometry, bounds);
    cutter.add(index, ops[index], geometry);
  }
  check_disjoint(ops);
  return cutter.finish();
}

}  // namespace phi3::transfer
