#include "transfer/op_check.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "transfer/decode/registry.hpp"
#include "transfer/decode_host.hpp"

namespace phi3::transfer {
namespace {

// Whether [offset, offset + bytes) lies inside [0, limit). Does not overflow.
bool inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t limit) {
  return bytes <= limit && offset <= limit - bytes;
}

Geometry geometry_of(std::size_t index, const Conversion& conversion) {
  if (conversion.kind == ConversionKind::kCopy) return {1, 1, 1, false};
  const decode::TypeInfo* type = decode::find_type(conversion.ggml_type);
  if (type == nullptr) {
    refuse(index, "no decoder for ggml type " + std::to_string(conversion.ggml_type));
  }
  return {type->block_bytes, type->block_len, std::uint64_t{type->block_len} * 2,
          type->has_tensor_scale};
}

// Elements of a row are dropped and kept in multiples of this, because kernels store 16 bytes at a
// time.
constexpr std::uint64_t kCropStep = 8;

// Returns the bytes that the operation writes for each row.
std::uint64_t dest_row_bytes(std::size_t index, const CopyOp& op, const Geometry& geometry) {
  const Columns& columns = op.columns;
  const std::uint64_t piece = columns.end - columns.begin;
  if (op.conversion.kind == ConversionKind::kCopy) {
    if (columns.skip != 0 || columns.keep != 0) refuse(index, "a copy cannot drop elements");
    return piece;
  }
  const std::uint64_t elements = piece / geometry.block_bytes * geometry.block_len;
  if (elements > UINT32_MAX) refuse(index, "a row has too many elements");
  const bool drops = columns.keep != elements;
  if (columns.keep == 0 || !inside(columns.skip, columns.keep, elements) ||
      (drops && (columns.skip % kCropStep != 0 || columns.keep % kCropStep != 0))) {
    refuse(index, "the kept elements are not in the row, or not in multiples of 8");
  }
  return std::uint64_t{columns.keep} * 2;
}

void check_columns(std::size_t index, const CopyOp& op, const Geometry& geometry) {
  const Columns& columns = op.columns;
  if (op.source_bytes == 0 || op.source_bytes % columns.row_bytes != 0) {
    refuse(index, "the source size is not a multiple of the row size");
  }
  if (columns.begin >= columns.end || columns.end > columns.row_bytes) {
    refuse(index, "the columns are not in the row");
  }
  for (const std::uint64_t edge : {columns.begin, columns.end, columns.row_bytes}) {
    if (edge % geometry.block_bytes != 0) refuse(index, "the columns are not whole blocks");
  }
  const std::uint64_t rows = op.source_bytes / columns.row_bytes;
  const std::uint64_t row = dest_row_bytes(index, op, geometry);
  if (op.dest_bytes % row != 0 || op.dest_bytes / row != rows) {
    refuse(index, "the destination size does not match the columns");
  }
}

void check_range(std::size_t index, const CopyOp& op, const Geometry& geometry) {
  if (op.source_bytes % geometry.block_bytes != 0) {
    refuse(index, "the source size is not a multiple of the block size");
  }
  if (op.dest_bytes % geometry.dest_block_bytes != 0 ||
      op.dest_bytes / geometry.dest_block_bytes != op.source_bytes / geometry.block_bytes) {
    refuse(index, "the destination size does not match the conversion");
  }
}

}  // namespace

void refuse(std::size_t index, const std::string& why, std::int64_t lane) {
  throw Error(Code::kInvalidArgument, 0, "operation " + std::to_string(index) + ": " + why,
              {kUnknown, static_cast<std::int64_t>(index), lane});
}

Geometry check_op(std::size_t index, const CopyOp& op, const Bounds& bounds) {
  const Geometry geometry = geometry_of(index, op.conversion);
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
  if (op.columns.row_bytes != 0) {
    check_columns(index, op, geometry);
  } else {
    check_range(index, op, geometry);
  }
  // The negated form also refuses NaN.
  const bool is_scaled = op.conversion.kind == ConversionKind::kScaledToF16;
  if (is_scaled && !geometry.has_tensor_scale && !(op.conversion.scale == 1.0f)) {
    refuse(index, "the type does not support a tensor scale");
  }
  if (static_cast<std::uint32_t>(op.floats) >= kFloatFormats) {
    refuse(index, "the float format is unknown");
  }
  if (op.dest_bytes % float_bytes(op.floats) != 0) {
    refuse(index, "the destination size is not a multiple of the float size");
  }
  // Kernels store 16 bytes at a time.
  if (op.dest_offset % kDestAlignment != 0) {
    refuse(index, "the destination is not 16-byte aligned", op.lane);
  }
  return geometry;
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

}  // namespace phi3::transfer
