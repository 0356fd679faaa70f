// Decoding on the host, one thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transfer::decode {

struct TypeInfo {
  std::uint32_t id;  // ggml's number
  const char* name;
  std::uint32_t block_len;  // elements
  std::uint32_t block_bytes;
  bool has_tensor_scale;  // whether decoded values are multiplied by a factor of the tensor
};

// The types that can be decoded, in the order of the registry.
std::size_t type_count() noexcept;
const TypeInfo& type_at(std::size_t index) noexcept;

// Null where the type cannot be decoded.
const TypeInfo* find_type(std::uint32_t ggml_type_id) noexcept;

// Decodes `elements`, whole blocks of them, to IEEE halves: the value in f32 rounded to nearest
// even. Where the type has a tensor scale, the value is multiplied by `scale` before, in f32; other
// types ignore it. `src` may be unaligned. False, with nothing written, where the type cannot be
// decoded.
bool decode_to_f16(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                   std::uint64_t elements, float scale) noexcept;

// The same without the processor's vector extensions: what `decode_to_f16` falls back to, callable
// so that a test on a newer processor covers it.
bool decode_to_f16_baseline(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                            std::uint64_t elements, float scale) noexcept;

}  // namespace transfer::decode
