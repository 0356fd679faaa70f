#include "transfer/digest.hpp"

#include <array>
#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace phi3::transfer {
namespace {

struct State {
  Digest digest{0, 0};
  std::uint64_t key;
};

void add_word(State& state, std::uint64_t word) {
  const std::uint64_t x = word ^ state.key;
  state.digest.sum += word;
  state.digest.mix += (x & 0xffffffff) * (x >> 32);
  state.key += kDigestKeyStep;
}

// Adds whole words until fewer than eight bytes are left.
void add_words(State& state, const std::uint8_t*& data, std::uint64_t& bytes) {
  for (; bytes >= kDigestWord; data += kDigestWord, bytes -= kDigestWord) {
    std::uint64_t word;
    std::memcpy(&word, data, sizeof word);
    add_word(state, word);
  }
}

#if defined(__x86_64__)

// Writes the keys of the next words to `out`.
void first_keys(const State& state, std::uint64_t* out, std::uint64_t words) {
  for (std::uint64_t i = 0; i < words; ++i) out[i] = state.key + i * kDigestKeyStep;
}

// Adds the results of the vector lanes, and advances past the groups. The first half of `lanes` has
// parts of the sum, the second half has parts of the mix.
void finish_groups(State& state, const std::uint64_t* lanes, std::uint64_t words,
                   std::uint64_t groups, const std::uint8_t*& data, std::uint64_t& bytes) {
  const std::uint64_t half = words / 2;
  for (std::uint64_t i = 0; i < half; ++i) state.digest += {lanes[i], lanes[half + i]};
  state.key += groups * words * kDigestKeyStep;
  data += groups * words * kDigestWord;
  bytes -= groups * words * kDigestWord;
}

// Each function adds whole groups of words, in vectors with one word in each lane. Two accumulators
// hide the latency of the multiplication.

__attribute__((target("avx2"))) void add_groups_avx2(State& state, const std::uint8_t*& data,
                                                     std::uint64_t& bytes) {
  constexpr std::uint64_t kWords = 8;
  alignas(32) std::uint64_t lanes[kWords];
  first_keys(state, lanes, kWords);
  const auto* vectors = reinterpret_cast<const __m256i*>(lanes);
  __m256i key_a = _mm256_load_si256(vectors);
  __m256i key_b = _mm256_load_si256(vectors + 1);
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(kWords * kDigestKeyStep));
  __m256i sum_a = _mm256_setzero_si256(), sum_b = sum_a, mix_a = sum_a, mix_b = sum_a;
  const std::uint64_t groups = bytes / (kWords * kDigestWord);
  const auto* words = reinterpret_cast<const __m256i*>(data);
  for (std::uint64_t i = 0; i < groups; ++i, words += 2) {
    const __m256i a = _mm256_loadu_si256(words);
    const __m256i b = _mm256_loadu_si256(words + 1);
    const __m256i x = _mm256_xor_si256(a, key_a);
    const __m256i y = _mm256_xor_si256(b, key_b);
    sum_a = _mm256_add_epi64(sum_a, a);
    sum_b = _mm256_add_epi64(sum_b, b);
    mix_a = _mm256_add_epi64(mix_a, _mm256_mul_epu32(x, _mm256_srli_epi64(x, 32)));
    mix_b = _mm256_add_epi64(mix_b, _mm256_mul_epu32(y, _mm256_srli_epi64(y, 32)));
    key_a = _mm256_add_epi64(key_a, step);
    key_b = _mm256_add_epi64(key_b, step);
  }
  auto* out = reinterpret_cast<__m256i*>(lanes);
  _mm256_store_si256(out, _mm256_add_epi64(sum_a, sum_b));
  _mm256_store_si256(out + 1, _mm256_add_epi64(mix_a, mix_b));
  finish_groups(state, lanes, kWords, groups, data, bytes);
}

// Multiplies the two halves of each lane. The mask selects all lanes and gives the same
// instruction: GCC 12 warns of undefined values in its own unmasked intrinsics.
__attribute__((target("avx512f"))) inline __m512i product_of_halves(__m512i lanes) {
  constexpr __mmask8 kAll = 0xff;
  return _mm512_maskz_mul_epu32(kAll, lanes, _mm512_maskz_srli_epi64(kAll, lanes, 32));
}

__attribute__((target("avx512f"))) void add_groups_avx512(State& state, const std::uint8_t*& data,
                                                          std::uint64_t& bytes) {
  constexpr std::uint64_t kWords = 16;
  alignas(64) std::uint64_t lanes[kWords];
  first_keys(state, lanes, kWords);
  __m512i key_a = _mm512_load_si512(lanes);
  __m512i key_b = _mm512_load_si512(lanes + kWords / 2);
  const __m512i step = _mm512_set1_epi64(static_cast<long long>(kWords * kDigestKeyStep));
  __m512i sum_a = _mm512_setzero_si512(), sum_b = sum_a, mix_a = sum_a, mix_b = sum_a;
  const std::uint64_t groups = bytes / (kWords * kDigestWord);
  const std::uint8_t* words = data;
  for (std::uint64_t i = 0; i < groups; ++i, words += kWords * kDigestWord) {
    const __m512i a = _mm512_loadu_si512(words);
    const __m512i b = _mm512_loadu_si512(words + sizeof a);
    const __m512i x = _mm512_xor_si512(a, key_a);
    const __m512i y = _mm512_xor_si512(b, key_b);
    sum_a = _mm512_add_epi64(sum_a, a);
    sum_b = _mm512_add_epi64(sum_b, b);
    mix_a = _mm512_add_epi64(mix_a, product_of_halves(x));
    mix_b = _mm512_add_epi64(mix_b, product_of_halves(y));
    key_a = _mm512_add_epi64(key_a, step);
    key_b = _mm512_add_epi64(key_b, step);
  }
  _mm512_store_si512(lanes, _mm512_add_epi64(sum_a, sum_b));
  _mm512_store_si512(lanes + kWords / 2, _mm512_add_epi64(mix_a, mix_b));
  finish_groups(state, lanes, kWords, groups, data, bytes);
}

#endif

using AddGroups = void (*)(State&, const std::uint8_t*&, std::uint64_t&);

void add_no_groups(State&, const std::uint8_t*&, std::uint64_t&) {}

// The implementations that this processor can run, the widest first.
struct Instances {
  std::array<AddGroups, 3> add_groups{};
  std::size_t count = 0;

  Instances() noexcept {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) add_groups[count++] = add_groups_avx512;
    if (__builtin_cpu_supports("avx2")) add_groups[count++] = add_groups_avx2;
#endif
    add_groups[count++] = add_no_groups;
  }
};

const Instances& instances() noexcept {
  static const Instances found;
  return found;
}

Digest digest_by(AddGroups add_groups, const std::uint8_t* data, std::uint64_t bytes,
                 std::uint64_t offset) noexcept {
  State state;
  state.key = (offset / kDigestWord + 1) * kDigestKeyStep;
  add_groups(state, data, bytes);
  add_words(state, data, bytes);
  if (bytes != 0) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, bytes);
    add_word(state, word);
  }
  return state.digest;
}

}  // namespace

Digest digest_piece(const std::uint8_t* data, std::uint64_t bytes, std::uint64_t offset) noexcept {
  return digest_by(instances().add_groups[0], data, bytes, offset);
}

std::vector<Digest> digest_with_each_instruction_set(const std::uint8_t* data, std::uint64_t bytes,
                                                     std::uint64_t offset) {
  std::vector<Digest> out;
  for (std::size_t i = 0; i < instances().count; ++i) {
    out.push_back(digest_by(instances().add_groups[i], data, bytes, offset));
  }
  return out;
}

}  // namespace phi3::transfer
