#include "transfer/decode_host.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "transfer/decode/registry.hpp"
#include "transfer/half.hpp"

// A second build of every decoder for AVX2, chosen at run time, because the baseline of x86-64 is
// SSE2. Without FMA: the reference has no fused multiply-add.
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define TRANSFER_HAS_AVX2_DECODERS 1
#define TRANSFER_TARGET_AVX2 __attribute__((target("avx2,f16c")))
#endif

namespace phi3::transfer::decode {
namespace {

using DecodeFn = void (*)(const std::uint8_t* src, half_bits* dst, std::uint64_t elements,
                          float scale);
using DecodeToF32Fn = void (*)(const std::uint8_t* src, float* dst, std::uint64_t elements);

template <class Type>
TRANSFER_HD void decode_words(const std::uint8_t* src, half_bits* dst, std::uint64_t elements) {
  using Word = typename Type::Word;
  for (std::uint64_t i = 0; i < elements; ++i) {
    Word word;
    std::memcpy(&word, src + i * sizeof word, sizeof word);
    dst[i] = Type::value(word);
  }
}

// Decodes a whole block into an array first. The compiler must assume that stores to `dst` overlap
// `src`. Without the array, it could not share the work on scales between groups.
template <class Type>
struct BlockValues {
  static constexpr int kGroups = Type::kBlockLen / 8;
  alignas(32) float group[kGroups][8];

  TRANSFER_HD BlockValues(const std::uint8_t* block, [[maybe_unused]] float scale) {
    for (int g = 0; g < kGroups; ++g) {
      Type::decode8(block, g, group[g]);
      if constexpr (has_tensor_scale<Type>) {
        for (float& value : group[g]) value *= scale;
      }
    }
  }
};

template <class Type>
void decode_baseline(const std::uint8_t* src, half_bits* dst, std::uint64_t elements,
                     [[maybe_unused]] float scale) {
  if constexpr (Type::kBlockLen == 1) {
    decode_words<Type>(src, dst, elements);
  } else {
    for (std::uint64_t block = 0; block < elements / Type::kBlockLen; ++block) {
      const BlockValues<Type> values(src + block * Type::kBlockBytes, scale);
      half_bits* out = dst + block * Type::kBlockLen;
      for (const auto& group : values.group) {
        for (int i = 0; i < 8; ++i) {
          *out++ = half_from_computed(group[i]);
        }
      }
    }
  }
}

template <class Type>
void decode_blocks_to_f32(const std::uint8_t* src, float* dst, std::uint64_t elements) {
  for (std::uint64_t block = 0; block < elements / Type::kBlockLen; ++block) {
    const BlockValues<Type> values(src + block * Type::kBlockBytes, 1.0F);
    std::memcpy(dst + block * Type::kBlockLen, values.group, sizeof values.group);
  }
}

// Plain numbers have no such decoder.
template <class Type>
constexpr DecodeToF32Fn decode_to_f32_of() {
  if constexpr (Type::kBlockLen == 1) {
    return nullptr;
  } else {
    return decode_blocks_to_f32<Type>;
  }
}

#if defined(TRANSFER_HAS_AVX2_DECODERS)

TRANSFER_TARGET_AVX2 inline void store_computed_avx2(const float (&values)[8], half_bits* dst) {
  const __m256 v = _mm256_load_ps(values);
  __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m128i nan16 =
      _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
  halves = _mm_blendv_epi8(halves, _mm_set1_epi16(kCanonicalNan), nan16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), halves);
}

template <class Type>
TRANSFER_TARGET_AVX2 void decode_avx2(const std::uint8_t* src, half_bits* dst,
                                      std::uint64_t elements, [[maybe_unused]] float scale) {
  if constexpr (Type::kBlockLen == 1) {
    decode_words<Type>(src, dst, elements);
  } else {
    for (std::uint64_t block = 0; block < elements / Type::kBlockLen; ++block) {
      const BlockValues<Type> values(src + block * Type::kBlockBytes, scale);
      half_bits* out = dst + block * Type::kBlockLen;
      for (int g = 0; g < BlockValues<Type>::kGroups; ++g) {
        store_computed_avx2(values.group[g], out + 8 * g);
      }
    }
  }
}

bool has_avx2_and_f16c() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 &&
         (ecx & bit_F16C) != 0;
}

#endif

struct Entry {
  TypeInfo info;
  DecodeToF32Fn to_f32;
  DecodeFn baseline;
#if defined(TRANSFER_HAS_AVX2_DECODERS)
  DecodeFn avx2;
#endif
};

template <class Type>
constexpr Entry entry_of() {
  static_assert(Type::kBlockLen == 1 || Type::kBlockLen % 8 == 0);
  return {{Type::kTypeId, Type::kName, Type::kBlockLen, Type::kBlockBytes, has_tensor_scale<Type>},
          decode_to_f32_of<Type>(),
          decode_baseline<Type>,
#if defined(TRANSFER_HAS_AVX2_DECODERS)
          decode_avx2<Type>
#endif
  };
}

template <class... Types>
constexpr std::array<Entry, sizeof...(Types)> entries_of(TypeList<Types...>) {
  return {entry_of<Types>()...};
}

constexpr auto kEntries = entries_of(Decoders{});

template <class... Types>
constexpr std::size_t longest_block(TypeList<Types...>) {
  return std::max({std::size_t{Types::kBlockLen}...});
}
constexpr std::size_t kLongestBlock = longest_block(Decoders{});

const Entry* find_entry(std::uint32_t ggml_type_id) noexcept {
  for (const Entry& entry : kEntries) {
    if (entry.info.id == ggml_type_id) {
      return &entry;
    }
  }
  return nullptr;
}

}  // namespace

std::size_t type_count() noexcept { return kEntries.size(); }

const TypeInfo& type_at(std::size_t index) noexcept { return kEntries[index].info; }

const TypeInfo* find_type(std::uint32_t ggml_type_id) noexcept {
  const Entry* entry = find_entry(ggml_type_id);
  return entry == nullptr ? nullptr : &entry->info;
}

bool decode_to_f16(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                   std::uint64_t elements, float scale) noexcept {
#if defined(TRANSFER_HAS_AVX2_DECODERS)
  static const bool use_avx2 = has_avx2_and_f16c();
  if (use_avx2) {
    const Entry* entry = find_entry(ggml_type_id);
    if (entry != nullptr) {
      entry->avx2(src, dst, elements, scale);
    }
    return entry != nullptr;
  }
#endif
  return decode_to_f16_baseline(ggml_type_id, src, dst, elements, scale);
}

bool decode_cropped_to_f16(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                           std::uint64_t elements, const Crop& crop, float scale) noexcept {
  const TypeInfo* type = find_type(ggml_type_id);
  if (type == nullptr) return false;
  std::array<std::uint16_t, kLongestBlock> block;
  const std::uint64_t row_bytes = crop.row_elements / type->block_len * type->block_bytes;
  const std::uint32_t end = crop.skip + crop.keep;
  for (std::uint64_t row = 0; row < elements / crop.row_elements; ++row, src += row_bytes) {
    for (std::uint32_t at = crop.skip; at < end;) {
      const std::uint32_t first = at % type->block_len;
      const std::uint8_t* from = src + at / type->block_len * type->block_bytes;
      std::uint32_t count = (end - at) / type->block_len * type->block_len;
      if (first == 0 && count != 0) {
        decode_to_f16(ggml_type_id, from, dst, count, scale);
      } else {
        // Only a part of this block is kept.
        count = std::min(type->block_len - first, end - at);
        decode_to_f16(ggml_type_id, from, block.data(), type->block_len, scale);
        std::copy_n(block.data() + first, count, dst);
      }
      dst += count;
      at += count;
    }
  }
  return true;
}

bool decode_to_f16_baseline(std::uint32_t ggml_type_id, const std::uint8_t* src, std::uint16_t* dst,
                            std::uint64_t elements, float scale) noexcept {
  const Entry* entry = find_entry(ggml_type_id);
  if (entry != nullptr) {
    entry->baseline(src, dst, elements, scale);
  }
  return entry != nullptr;
}

bool decode_to_f32(std::uint32_t ggml_type_id, const std::uint8_t* src, float* dst,
                   std::uint64_t elements) noexcept {
  const Entry* entry = find_entry(ggml_type_id);
  if (entry == nullptr || entry->to_f32 == nullptr) return false;
  entry->to_f32(src, dst, elements);
  return true;
}

}  // namespace phi3::transfer::decode
