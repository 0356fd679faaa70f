#include "transfer/digest.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace transfer {
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

// Takes whole words while there are any.
void add_words(State& state, const std::uint8_t*& data, std::uint64_t& bytes) {
  for (; bytes >= kDigestWord; data += kDigestWord, bytes -= kDigestWord) {
    std::uint64_t word;
    std::memcpy(&word, data, sizeof word);
    add_word(state, word);
  }
}

#if defined(__x86_64__)

// Takes groups of 8 words while there are any; two accumulators hide the multiplication's latency.
__attribute__((target("avx2"))) void add_groups_avx2(State& state, const std::uint8_t*& data,
                                                     std::uint64_t& bytes) {
  constexpr std::uint64_t kGroup = 8 * kDigestWord;
  const auto key_at = [&](std::uint64_t i) {
    return static_cast<long long>(state.key + i * kDigestKeyStep);
  };
  __m256i key_a = _mm256_setr_epi64x(key_at(0), key_at(1), key_at(2), key_at(3));
  __m256i key_b = _mm256_setr_epi64x(key_at(4), key_at(5), key_at(6), key_at(7));
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(8 * kDigestKeyStep));
  __m256i sum_a = _mm256_setzero_si256(), sum_b = sum_a, mix_a = sum_a, mix_b = sum_a;
  std::uint64_t groups = 0;
  for (; bytes >= kGroup; data += kGroup, bytes -= kGroup, ++groups) {
    const auto* words = reinterpret_cast<const __m256i*>(data);
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
  std::uint64_t lanes[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi64(sum_a, sum_b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 4), _mm256_add_epi64(mix_a, mix_b));
  for (int i = 0; i < 4; ++i) state.digest += {lanes[i], lanes[4 + i]};
  state.key += groups * 8 * kDigestKeyStep;
}

bool has_avx2() noexcept {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") != 0;
}

#endif

}  // namespace

Digest digest_piece(const std::uint8_t* data, std::uint64_t bytes, std::uint64_t offset) noexcept {
  State state;
  state.key = (offset / kDigestWord + 1) * kDigestKeyStep;
#if defined(__x86_64__)
  static const bool use_avx2 = has_avx2();
  if (use_avx2) add_groups_avx2(state, data, bytes);
#endif
  add_words(state, data, bytes);
  if (bytes != 0) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, bytes);
    add_word(state, word);
  }
  return state.digest;
}

}  // namespace transfer
