// The engine's operations: byte ranges and conversions. The engine knows nothing of models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "transfer/non_finite.hpp"

namespace phi3::transfer {

// The types below match those of crates/cuda-sys/src/copy_op.rs field by field, because both
// languages use the same memory.

enum class ConversionKind : std::uint32_t {
  kCopy = 0,         // copies the bytes unchanged
  kToF16 = 1,        // decodes blocks to f16
  kScaledToF16 = 2,  // decodes blocks, multiplies the values by `scale`, then rounds to f16
};

struct Conversion {
  ConversionKind kind;
  std::uint32_t ggml_type;  // only for kToF16 and kScaledToF16
  float scale;              // only for kScaledToF16
};

// Some columns of a matrix: the bytes [begin, end) of each row of the source range. Rows lie one
// after the other at the destination. With a conversion, the bytes are whole blocks. Of the decoded
// elements of each row, the first `skip` are dropped and the next `keep` are stored.
struct Columns {
  std::uint64_t row_bytes;  // in the source; 0 if the operation moves its whole source range
  std::uint64_t begin;
  std::uint64_t end;
  std::uint32_t skip;  // a multiple of 8; 0 without a conversion
  std::uint32_t keep;  // all, or a multiple of 8; 0 without a conversion
};

struct CopyOp {
  std::uint32_t source;         // index into the sources of the call
  std::uint32_t lane;           // index into the destinations of the call
  std::uint64_t source_offset;  // bytes from the start of that source
  std::uint64_t source_bytes;
  std::uint64_t dest_offset;  // bytes from the start of the lane's destination buffer
  std::uint64_t dest_bytes;
  Conversion conversion;
  std::uint32_t unit;  // progress unit, from 0; a unit is done when all its bytes have landed
  FloatFormat floats;  // at the destination; their infinities and NaNs are counted
  Columns columns;
};

static_assert(std::is_trivially_copyable_v<CopyOp>);
static_assert(sizeof(CopyOp) == 96 && alignof(CopyOp) == 8);
static_assert(offsetof(CopyOp, source) == 0);
static_assert(offsetof(CopyOp, lane) == 4);
static_assert(offsetof(CopyOp, source_offset) == 8);
static_assert(offsetof(CopyOp, source_bytes) == 16);
static_assert(offsetof(CopyOp, dest_offset) == 24);
static_assert(offsetof(CopyOp, dest_bytes) == 32);
static_assert(offsetof(CopyOp, conversion) == 40);
static_assert(offsetof(CopyOp, unit) == 52);
static_assert(offsetof(CopyOp, floats) == 56);
static_assert(offsetof(CopyOp, columns) == 64);
static_assert(sizeof(Columns) == 32 && alignof(Columns) == 8);
static_assert(offsetof(Columns, row_bytes) == 0);
static_assert(offsetof(Columns, begin) == 8);
static_assert(offsetof(Columns, end) == 16);
static_assert(offsetof(Columns, skip) == 24);
static_assert(offsetof(Columns, keep) == 28);
static_assert(sizeof(Conversion) == 12 && alignof(Conversion) == 4);
static_assert(offsetof(Conversion, kind) == 0);
static_assert(offsetof(Conversion, ggml_type) == 4);
static_assert(offsetof(Conversion, scale) == 8);
static_assert(sizeof(FloatFormat) == 4);

}  // namespace phi3::transfer
