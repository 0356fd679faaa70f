// Decodes blocks on the host, in one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transfer/crop.hpp"

namespace phi3::transfer::decode {

struct TypeInfo {
  std::uint32_t id;  // ggml's number
  const char* name;
  std::uint32_t block_len;  // elements
  std::uint32_t block_bytes;
  bool has_tensor_scale;  // whether each tensor also has one factor for all its values
};

// The types that can be decoded, in the order of the registry.
std::size_t type_count() noexcept;
const TypeInfo& type_at(std::size_t index) noexcept;

// Returns null if the type cannot be decoded.
const TypeInfo* find_type(std::uint32_t ggml_type_id) noexcept;

// Decodes `elements` values, a whole number of blocks, to IEEE halves. Computes each value in f32
// and rounds it to nearest even. If the type has a tensor scale, multiplies the value by `scale` in
// f32 before rounding; other types ignore `scale`. `src` may be unaligned. Returns false and writes
// nothing if the type cannot be decoded.
bool decode_to_f16(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                   std::uint64_t elements, float scale) noexcept;

// The same for rows of crop.row_elements values each. Writes only the values that the crop keeps,
// one row after the other.
bool decode_cropped_to_f16(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                           std::uint64_t elements, const Crop& crop, float scale) noexcept;

// The same as decode_to_f16() without the processor's vector extensions. decode_to_f16() falls back
// to it on older processors. Tests on newer processors call it directly.
bool decode_to_f16_baseline(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                            std::uint64_t elements, float scale) noexcept;

// Decodes whole blocks to f32, without vector extensions and without a tensor scale. Returns false
// and writes nothing if the type has no blocks or cannot be decoded.
bool decode_to_f32(std::uint32_t ggml_type_id, const std::uint8_t* src, float* dst,
                   std::uint64_t elements) noexcept;

}  // namespace phi3::transfer::decode
