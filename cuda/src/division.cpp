#include "transfer/division.hpp"

#include <algorithm>
#include <numeric>

#include "transfer/digest.hpp"
#include "transfer/rounding.hpp"
#include "transfer/source.hpp"

namespace phi3::transfer {
namespace {

// Digests are of whole words. Therefore a chunk can be digested in shares only if every share
// boundary is also a word boundary.
bool can_digest_in_shares(const Schedule& schedule, const Chunk& chunk) {
  const View<Segment> segments = schedule.segments_of(chunk);
  return std::all_of(segments.begin(), segments.end(), [&](const Segment& segment) {
    return (chunk.source_offset + segment.chunk_offset) % kDigestWord == 0;
  });
}

std::uint64_t dest_bytes_of(const Schedule& schedule, const Chunk& chunk) {
  const View<Segment> segments = schedule.segments_of(chunk);
  return std::accumulate(
      segments.begin(), segments.end(), std::uint64_t{0},
      [](std::uint64_t sum, const Segment& segment) { return sum + segment.dest_bytes; });
}

// Appends the shares of a chunk that is gathered.
void append_rows(const Chunk& chunk, std::size_t index, const DivisionRules& rules,
                 std::vector<Share>& shares) {
  const std::uint64_t step = chunk.row_bytes * chunk.row_step;
  const std::uint64_t largest = std::max(step, round_down(rules.read_bytes[chunk.source], step));
  for (std::uint64_t start = 0; start < chunk.bytes; start += largest) {
    shares.push_back({index, start, std::min(largest, chunk.bytes - start)});
  }
}

// Appends the shares of a chunk. They end on pages of the source, so that aligned reads of
// neighbours do not overlap.
void append_shares(const Schedule& schedule, std::size_t index, const DivisionRules& rules,
                   std::vector<Share>& shares) {
  const Chunk& chunk = schedule.chunks[index];
  if (chunk.row_bytes != 0) return append_rows(chunk, index, rules, shares);
  const std::uint64_t largest =
      std::max(kSourceAlignment, round_down(rules.read_bytes[chunk.source], kSourceAlignment));
  const std::uint64_t lead = chunk.source_offset % kSourceAlignment;
  const bool whole = rules.digest && !can_digest_in_shares(schedule, chunk);
  for (std::uint64_t start = 0; start < chunk.bytes;) {
    const std::uint64_t end =
        whole ? chunk.bytes : std::min(chunk.bytes, round_up(start + lead + 1, largest) - lead);
    shares.push_back({index, start, end - start});
    start = end;
  }
}

// Several stretches for each reader, so that all readers finish at about the same time.
constexpr std::uint64_t kStretchesPerReader = 4;

std::uint64_t stretch_bytes(const Schedule& schedule, const DivisionRules& rules) {
  const std::uint64_t dest_bytes = std::accumulate(
      schedule.chunks.begin(), schedule.chunks.end(), std::uint64_t{0},
      [&](std::uint64_t sum, const Chunk& chunk) { return sum + dest_bytes_of(schedule, chunk); });
  return std::min(rules.stretch_bytes,
                  dest_bytes / (kStretchesPerReader * std::max(rules.readers, 1U)));
}

}  // namespace

Division divide(const Schedule& schedule, const DivisionRules& rules) {
  const std::uint64_t wanted = stretch_bytes(schedule, rules);
  Division division;
  std::size_t runs = 0;
  std::uint64_t missing = 0;  // destination bytes that the last run still lacks
  for (std::size_t index = 0; index < schedule.chunks.size(); ++index) {
    const std::uint64_t dest_bytes = dest_bytes_of(schedule, schedule.chunks[index]);
    const std::size_t first = division.shares.size();
    append_shares(schedule, index, rules, division.shares);
    const std::size_t count = division.shares.size() - first;
    if (missing == 0) {
      const std::size_t parts =
          wanted == 0 ? count : std::clamp<std::uint64_t>(dest_bytes / wanted, 1, count);
      for (std::size_t part = 0; part < parts; ++part) {
        const std::size_t begin = count * part / parts;
        division.stretches.push_back({first + begin, count * (part + 1) / parts - begin});
      }
      runs += 1;
      missing = wanted;
    } else {
      division.stretches.back().count += count;
    }
    missing -= std::min(missing, dest_bytes);
    division.run_of_chunk.push_back(runs - 1);
    division.shares_of_chunk.push_back(static_cast<std::uint32_t>(count));
  }
  return division;
}

}  // namespace phi3::transfer
