#include "transfer/measure.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "transfer/decode_host.hpp"
#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

// A multiple of every type's block length.
constexpr std::uint64_t kBlockElements = 256;

// More than any memory holds. Small enough that the sum of two, with padding, fits in 64 bits.
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 62;

}  // namespace

std::uint64_t measured_bytes(std::uint64_t count, std::uint64_t each) {
  if (each != 0 && count > kMaxBytes / each) {
    throw Error(Code::kInvalidArgument, 0,
                std::to_string(count) + " times " + std::to_string(each) +
                    " bytes are too many for a measurement");
  }
  return count * each;
}

Rate rate_of(std::uint64_t bytes, std::uint32_t runs, const std::function<double()>& once) {
  if (runs == 0) throw Error(Code::kInvalidArgument, 0, "a rate needs at least one run");
  (void)once();
  std::vector<double> rates;
  for (std::uint32_t run = 0; run < runs; ++run) {
    // A run that is too short for the clock must not give an infinite rate.
    rates.push_back(static_cast<double>(bytes) / std::max(once(), 1e-9));
  }
  std::sort(rates.begin(), rates.end());
  const std::size_t middle = rates.size() / 2;
  const double median =
      rates.size() % 2 == 1 ? rates[middle] : (rates[middle - 1] + rates[middle]) / 2;
  return {median, rates.front(), rates.back()};
}

void fill_finite(std::byte* data, std::uint64_t bytes, std::uint64_t seed) noexcept {
  // SplitMix64, eight bytes at a time.
  std::uint64_t state = seed;
  for (std::uint64_t done = 0; done < bytes;) {
    std::uint64_t word = (state += 0x9e3779b97f4a7c15);
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
    word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
    word ^= word >> 31;
    // If all exponent bits of a float are ones, one of its bytes has a high nibble of 7 or 15.
    // Clear bit 2 of every such nibble: then no float is infinite or NaN.
    const std::uint64_t ones = word & (word >> 1) & (word >> 2) & 0x1010101010101010;
    word &= ~(ones << 2);
    const std::uint64_t piece = std::min<std::uint64_t>(sizeof word, bytes - done);
    std::memcpy(data + done, &word, piece);
    done += piece;
  }
}

WorkBytes bytes_of(const WorkShape& shape) {
  if (shape.elements == 0 || shape.elements % kBlockElements != 0 || shape.threads == 0) {
    throw Error(Code::kInvalidArgument, 0,
                "a measurement needs whole blocks and at least one thread");
  }
  const std::uint64_t halves = measured_bytes(shape.elements, sizeof(std::uint16_t));
  switch (shape.work) {
    case MeasuredWork::kCopy:
    case MeasuredWork::kCopyToNew:
      return {halves, halves};
    case MeasuredWork::kCountNonFinite:
    case MeasuredWork::kDigest:
      return {halves, 0};
    case MeasuredWork::kDecodeToF16:
      break;
  }
  const decode::TypeInfo* type = decode::find_type(shape.ggml_type);
  if (type == nullptr) {
    throw Error(Code::kInvalidArgument, 0,
                "ggml type " + std::to_string(shape.ggml_type) + " cannot be decoded");
  }
  return {measured_bytes(shape.elements / type->block_len, type->block_bytes), halves};
}

}  // namespace phi3::transfer
