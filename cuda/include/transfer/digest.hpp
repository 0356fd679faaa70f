// A 128-bit digest of a byte range. Any number of threads can compute it in pieces, on the host and
// on a device, at the speed of memory.
//
// The range is read as little-endian 64-bit words w[i], the last padded with zeros. With the key
// k[i] = (i + 1) * 0x9e3779b97f4a7c15 and x = w[i] ^ k[i], both modulo 2^64:
//
//   sum = w[0] + w[1] + ...                              any change of one word changes it
//   mix = low32(x) * high32(x), summed over all words    depends on the positions of the words
//
// It detects bad memory, bad copies and misplaced pieces. It does not protect against an attacker.
#pragma once

#include <cstdint>
#include <vector>

namespace phi3::transfer {

struct Digest {
  std::uint64_t sum;
  std::uint64_t mix;

  friend bool operator==(const Digest& a, const Digest& b) {
    return a.sum == b.sum && a.mix == b.mix;
  }
  Digest& operator+=(const Digest& other) {
    sum += other.sum;
    mix += other.mix;
    return *this;
  }
};

inline constexpr std::uint64_t kDigestKeyStep = 0x9e3779b97f4a7c15;

// Pieces of a range start at a multiple of this, so that they are whole words.
inline constexpr std::uint64_t kDigestWord = 8;

// Returns the part of the digest for a piece that starts `offset` bytes into its range. `offset` is
// a multiple of kDigestWord. `bytes` is one too, unless the piece is the last one. The sum of all
// parts is the digest.
Digest digest_piece(const std::uint8_t* data, std::uint64_t bytes, std::uint64_t offset) noexcept;

// Returns the same part, computed by each implementation that this processor can run. All are
// equal. The first is the one that digest_piece() uses.
std::vector<Digest> digest_with_each_instruction_set(const std::uint8_t* data, std::uint64_t bytes,
                                                     std::uint64_t offset);

}  // namespace phi3::transfer
