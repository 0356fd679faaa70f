// All tensor types that can be decoded to half.
//
// To add a type, add a header beside this one and an entry in `Decoders`. The dispatch on host and
// device, the names and the geometry follow from it. A type of single elements (`kBlockLen` 1) has
// `Word` and `value(Word)`, which returns the half. A type of blocks has `decode8(block, group,
// out)`, which computes elements [8 * group, 8 * group + 8) of one block in f32, with the same
// operations in the same order as ggml's reference. A type whose tensors also have one f32 factor
// sets `kHasTensorScale`: decoded values are multiplied by the factor, in f32, before they are
// rounded to half.
//
// Fusing a product with the following addition would change nothing: every product of a decoder is
// exact in the 24 bits of a float, so that only the addition rounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "transfer/decode/iq1.hpp"
#include "transfer/decode/iq2.hpp"
#include "transfer/decode/iq3.hpp"
#include "transfer/decode/iq4.hpp"
#include "transfer/decode/mxfp4.hpp"
#include "transfer/decode/nvfp4.hpp"
#include "transfer/decode/q1_0.hpp"
#include "transfer/decode/q2_0.hpp"
#include "transfer/decode/q2_k.hpp"
#include "transfer/decode/q3_k.hpp"
#include "transfer/decode/q4.hpp"
#include "transfer/decode/q4_k.hpp"
#include "transfer/decode/q5.hpp"
#include "transfer/decode/q5_k.hpp"
#include "transfer/decode/q6_k.hpp"
#include "transfer/decode/q8_0.hpp"
#include "transfer/decode/scalar.hpp"
#include "transfer/decode/ternary.hpp"

namespace phi3::transfer::decode {

template <class... Types>
struct TypeList {};

template <class Type, class = void>
struct TensorScale : std::false_type {};
template <class Type>
struct TensorScale<Type, std::enable_if_t<Type::kHasTensorScale>> : std::true_type {};

template <class Type>
inline constexpr bool has_tensor_scale = TensorScale<Type>::value;

using Decoders = TypeList<F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K,
                          Q6_K, IQ4_NL, IQ4_XS, IQ3_S, IQ3_XXS, IQ2_S, IQ2_XS, IQ2_XXS, IQ1_S,
                          IQ1_M, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0>;

// Whether all type numbers are different.
template <class... Types>
constexpr bool has_unique_ids(TypeList<Types...>) {
  constexpr std::uint32_t kIds[] = {Types::kTypeId...};
  for (std::size_t i = 0; i < sizeof...(Types); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (kIds[i] == kIds[j]) {
        return false;
      }
    }
  }
  return true;
}
static_assert(has_unique_ids(Decoders{}));

}  // namespace phi3::transfer::decode
