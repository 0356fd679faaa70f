// The rules that every operation of a call must follow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "transfer/copy_op.hpp"
#include "transfer/error.hpp"
#include "transfer/schedule.hpp"
#include "transfer/view.hpp"

namespace phi3::transfer {

// The blocks of an operation. A copy has blocks of one byte.
struct Geometry {
  std::uint64_t block_bytes;
  std::uint64_t block_len;
  std::uint64_t dest_block_bytes;
  bool has_tensor_scale;
};

// Throws Error{kInvalidArgument} for the operation, and for a lane if that is given.
[[noreturn]] void refuse(std::size_t index, const std::string& why, std::int64_t lane = kUnknown);

// Checks an operation and returns its geometry. Throws like refuse().
Geometry check_op(std::size_t index, const CopyOp& op, const Bounds& bounds);

// Checks that no two operations write the same byte. Throws like refuse().
void check_disjoint(View<CopyOp> ops);

}  // namespace phi3::transfer
