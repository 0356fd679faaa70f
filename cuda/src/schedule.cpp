#include "transfer/schedule.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <string>
#include <tuple>

#include "transfer/decode/registry.hpp"
#include "transfer/digest.hpp"
#include "transfer/op_check.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

// Padding between neighbours up to this size is cheaper to read than to skip.
constexpr std::uint64_t kMaxGap = 4096;

// The first chunk is small, so that the device can start early. Each later chunk is twice as large
// as the one before, up to the requested size.
constexpr std::uint64_t kFirstChunk = std::uint64_t{4} << 20;

// A tensor is split to fill a chunk only if at least one part in this many of the chunk is empty.
// Chunks of equal size keep as many bytes in flight as the ring can hold.
constexpr std::uint64_t kLeastSplit = 8;

// The bytes of each segment of a gathered chunk begin on a multiple of this.
constexpr std::uint64_t kGatherAlignment = 256;

constexpr std::uint64_t kLeastAlignment = 32;

// The smallest chunk must hold a piece of every type. Otherwise a tensor could not be cut
// completely.
template <class... Types>
constexpr bool holds_a_piece(decode::TypeList<Types...>) {
  return ((std::lcm(std::uint64_t{Types::kBlockBytes}, kLeastAlignment) <= kMinChunkBytes) && ...);
}
static_assert(holds_a_piece(decode::Decoders{}));

// Returns the bytes of the largest piece that fits in `room`; 0 if none fits. A piece is whole
// blocks. Its size keeps the strongest alignment that fits, so that pieces start as aligned as
// their tensor did.
std::uint64_t piece_bytes(std::uint64_t block_bytes, std::uint64_t room) {
  for (std::uint64_t alignment : {std::uint64_t{4096}, std::uint64_t{256}, kLeastAlignment}) {
    const std::uint64_t granule = std::lcm(block_bytes, alignment);
    if (granule <= room) return room / granule * granule;
  }
  return 0;
}

template <class Value>
void add_once(std::vector<Value>& values, Value value) {
  if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
}

std::uint32_t decoder_of(const Conversion& conversion) {
  return conversion.kind == ConversionKind::kCopy ? kCopyBytes : conversion.ggml_type;
}

float scale_of(const Conversion& conversion) {
  return conversion.kind == ConversionKind::kScaledToF16 ? conversion.scale : 1.0f;
}

std::uint64_t dest_row_bytes(const CopyOp& op) {
  return op.dest_bytes / (op.source_bytes / op.columns.row_bytes);
}

// The room that operations on columns of the same rows need in a chunk.
class RowRoom {
 public:
  void add(const CopyOp& op) {
    const std::uint64_t piece = op.columns.end - op.columns.begin;
    row_bytes_ = op.columns.row_bytes;
    staged_ += piece;
    padding_ += kGatherAlignment;
    step_ = std::lcm(step_, kDestAlignment / std::gcd(kDestAlignment, dest_row_bytes(op)));
    step_ = std::lcm(step_, kDigestWord / std::gcd(std::uint64_t{kDigestWord}, piece));
  }

  // The rows that must stay together, so that all destinations are aligned and all digests are of
  // whole words.
  std::uint64_t step() const { return step_; }
  // Returns the bytes of the smallest chunk that holds some rows.
  std::uint64_t least() const { return step_ * row() + padding_; }
  // Returns the number of rows that fit into a chunk of this size.
  std::uint64_t fitting(std::uint64_t chunk_bytes) const {
    return round_down((chunk_bytes - padding_) / row(), step_);
  }

 private:
  std::uint64_t row() const { return std::max(row_bytes_, staged_); }

  std::uint64_t row_bytes_ = 0;
  std::uint64_t staged_ = 0;
  std::uint64_t padding_ = 0;
  std::uint64_t step_ = 1;
};

// A checked operation with its position in the call.
struct Job {
  std::uint32_t index;
  const CopyOp* op;
  Geometry geometry;

  std::uint64_t begin() const { return op->source_offset; }
  std::uint64_t end() const { return op->source_offset + op->source_bytes; }
  std::uint64_t row_bytes() const { return op->columns.row_bytes; }
  std::uint64_t row_piece() const { return op->columns.end - op->columns.begin; }

  // Returns the destination bytes before the byte at `offset` of the source.
  std::uint64_t dest_before(std::uint64_t offset) const {
    return (offset - begin()) / geometry.block_bytes * geometry.dest_block_bytes;
  }
  std::uint64_t dest_row_bytes() const { return transfer::dest_row_bytes(*op); }
  // Whether a piece can begin at this byte of the source.
  bool can_begin_at(std::uint64_t offset) const {
    return (offset - begin()) % geometry.block_bytes == 0 &&
           dest_before(offset) % kDestAlignment == 0;
  }
};

// Jobs that share chunks.
using Group = std::vector<Job>;

bool overlap(const Job& a, const Job& b) {
  return a.op->source == b.op->source &&
         std::max(a.begin(), b.begin()) < std::min(a.end(), b.end());
}

bool has_same_rows(const CopyOp& a, const CopyOp& b) {
  return a.source == b.source && a.source_offset == b.source_offset &&
         a.source_bytes == b.source_bytes && a.columns.row_bytes == b.columns.row_bytes;
}

// Whether two jobs that overlap can share chunks.
bool can_share(const Job& a, const Job& b) {
  if (a.row_bytes() != b.row_bytes()) return false;
  if (a.row_bytes() != 0) return has_same_rows(*a.op, *b.op);
  const std::uint64_t begin = std::max(a.begin(), b.begin());
  const std::uint64_t end = std::min(a.end(), b.end());
  return a.geometry.block_bytes == b.geometry.block_bytes && a.can_begin_at(begin) &&
         b.can_begin_at(begin) && a.can_begin_at(end) && b.can_begin_at(end);
}

// Whether the job overlaps a job of the group and can share chunks with all that it overlaps.
bool joins(const Group& group, const Job& job) {
  bool overlaps = false;
  for (const Job& other : group) {
    if (!overlap(other, job)) continue;
    if (!can_share(other, job)) return false;
    overlaps = true;
  }
  return overlaps;
}

bool read_the_same(const Job& a, const Job& b) {
  return a.begin() == b.begin() && a.end() == b.end() && a.row_bytes() == b.row_bytes() &&
         a.op->columns.begin == b.op->columns.begin && a.op->columns.end == b.op->columns.end;
}

class Cutter {
 public:
  Cutter(std::uint64_t chunk_bytes, std::size_t lanes, std::uint32_t units)
      : chunk_bytes_(chunk_bytes) {
    schedule_.lanes.resize(lanes);
    for (LaneLoad& lane : schedule_.lanes) lane.unit_bytes.resize(units);
  }

  void add(const Group& group) {
    if (group.front().row_bytes() != 0) {
      add_columns(group);
    } else {
      add_ranges(group);
    }
    for (const Job& job : group) count(job, group);
  }

  Schedule finish() {
    schedule_.parts.reserve(schedule_.chunks.size());
    for (Chunk& chunk : schedule_.chunks) {
      schedule_.source_bytes += chunk.needed_bytes;
      append_parts(chunk);
    }
    for (const Part& part : schedule_.parts) {
      const View<Segment> segments = schedule_.segments_of(part);
      if (!lands_directly(segments.data, part.segment_count)) {
        schedule_.lanes[part.lane].kernels.converts = true;
      }
    }
    return std::move(schedule_);
  }

 private:
  // Cuts at the start and the end of every range, so that each job needs all of a piece or nothing.
  void add_ranges(const Group& group) {
    std::vector<std::uint64_t> ends;
    for (const Job& job : group) {
      ends.push_back(job.begin());
      ends.push_back(job.end());
    }
    std::sort(ends.begin(), ends.end());
    Group sharing;
    for (std::size_t i = 1; i < ends.size(); ++i) {
      sharing.clear();
      std::copy_if(group.begin(), group.end(), std::back_inserter(sharing), [&](const Job& job) {
        return job.begin() <= ends[i - 1] && ends[i] <= job.end();
      });
      if (ends[i - 1] < ends[i] && !sharing.empty()) add_range(sharing, ends[i - 1], ends[i]);
    }
  }

  // Adds the source range [begin, end), which all jobs need.
  void add_range(const Group& sharing, std::uint64_t begin, std::uint64_t end) {
    const std::uint32_t source = sharing.front().op->source;
    const std::uint64_t block_bytes = sharing.front().geometry.block_bytes;
    if (!known_.has(source, begin)) known_ = {source, begin, begin};
    for (std::uint64_t offset = begin; offset < end;) {
      std::uint64_t bytes =
          next_piece(block_bytes, end - offset, room_at(source, offset, sharing.size()));
      if (bytes == 0) {
        begin_chunk(source, offset);
        bytes = next_piece(block_bytes, end - offset, limit());
      }
      for (const Job& job : sharing) append(job, offset, bytes);
      Chunk& chunk = schedule_.chunks.back();
      chunk.bytes = offset + bytes - chunk.source_offset;
      offset += bytes;
      chunk.needed_bytes += std::max(known_.end, offset) - known_.end;
      known_.end = std::max(known_.end, offset);
    }
  }

  // Adds chunks of whole rows, of which each job needs a range of columns.
  void add_columns(const Group& group) {
    const Job& first = group.front();
    const std::uint64_t row_bytes = first.row_bytes();
    RowRoom room;
    for (const Job& job : group) room.add(*job.op);
    const std::uint64_t needed = needed_row_bytes(group);
    const std::uint64_t least = room.least();
    if (least > chunk_bytes_) {
      refuse(first.index, "its columns need chunks of at least " + std::to_string(least) +
                              " bytes, and chunks have " + std::to_string(chunk_bytes_));
    }
    const std::uint64_t rows = first.op->source_bytes / row_bytes;
    for (std::uint64_t row = 0; row < rows;) {
      const std::uint64_t count = std::min(rows - row, room.fitting(std::max(limit(), least)));
      begin_chunk(first.op->source, first.begin() + row * row_bytes);
      for (const Job& job : group) append_rows(job, row, count);
      Chunk& chunk = schedule_.chunks.back();
      chunk.bytes = count * row_bytes;
      chunk.needed_bytes = count * needed;
      chunk.row_bytes = row_bytes;
      chunk.row_step = static_cast<std::uint32_t>(room.step());
      row += count;
    }
  }

  // Returns the number of bytes of a row that at least one job needs.
  static std::uint64_t needed_row_bytes(const Group& group) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (const Job& job : group) ranges.push_back({job.op->columns.begin, job.op->columns.end});
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t bytes = 0;
    std::uint64_t known = 0;
    for (const auto& [begin, end] : ranges) {
      bytes += std::max(known, end) - std::max(known, begin);
      known = std::max(known, end);
    }
    return bytes;
  }

  void count(const Job& job, const Group& group) {
    const CopyOp& op = *job.op;
    LaneLoad& lane = schedule_.lanes[op.lane];
    const std::uint32_t decoder = decoder_of(op.conversion);
    if (decoder != kCopyBytes) add_once(lane.kernels.decoders, decoder);
    if (op.floats != FloatFormat::kNone) add_once(lane.kernels.floats, op.floats);
    lane.unit_bytes[op.unit] += job.row_bytes() == 0
                                    ? op.source_bytes
                                    : op.source_bytes / job.row_bytes() * job.row_piece();
    const auto found = std::find_if(group.begin(), group.end(),
                                    [&](const Job& other) { return read_the_same(other, job); });
    schedule_.findings_of.push_back(found->index);
  }

  // Groups the segments by lane, each lane in the order of the source, and appends a part for each
  // lane.
  void append_parts(Chunk& chunk) {
    Segment* const first = schedule_.segments.data() + chunk.first_segment;
    Segment* const end = first + chunk.segment_count;
    if (schedule_.lanes.size() > 1) {
      std::sort(first, end, [](const Segment& a, const Segment& b) {
        return std::tie(a.lane, a.chunk_offset) < std::tie(b.lane, b.chunk_offset);
      });
    }
    chunk.first_part = static_cast<std::uint32_t>(schedule_.parts.size());
    for (Segment* begin = first; begin != end; chunk.part_count += 1) {
      Segment* const next = std::find_if(
          begin, end, [&](const Segment& segment) { return segment.lane != begin->lane; });
      schedule_.parts.push_back({begin->lane,
                                 static_cast<std::uint32_t>(begin - schedule_.segments.data()),
                                 static_cast<std::uint32_t>(next - begin),
                                 round_down(begin->chunk_offset, kPartAlignment),
                                 next[-1].chunk_offset + next[-1].source_bytes});
      begin = next;
    }
  }

  // Returns the largest size of a chunk at this point.
  std::uint64_t limit() const {
    std::uint64_t limit = kFirstChunk;
    for (std::size_t i = 1; i < schedule_.chunks.size() && limit < chunk_bytes_; ++i) limit *= 2;
    return std::min(limit, chunk_bytes_);
  }

  // Returns the bytes from `offset` on that can join the last chunk.
  std::uint64_t room_at(std::uint32_t source, std::uint64_t offset, std::size_t segments) const {
    if (schedule_.chunks.empty()) return 0;
    const Chunk& chunk = schedule_.chunks.back();
    const std::uint64_t end = chunk.source_offset + chunk.bytes;
    const bool joins = chunk.source == source && chunk.row_bytes == 0 && offset >= end &&
                       offset - end <= kMaxGap && chunk.segment_count + segments <= kMaxSegments;
    const std::uint64_t room_end = chunk.source_offset + limit();
    return joins && offset < room_end ? room_end - offset : 0;
  }

  // Returns the bytes of the next piece, at most `left`; 0 if too few fit to be worth a copy.
  std::uint64_t next_piece(std::uint64_t block_bytes, std::uint64_t left,
                           std::uint64_t room) const {
    if (left <= room) return left;
    return room < limit() / kLeastSplit ? 0 : piece_bytes(block_bytes, room);
  }

  void begin_chunk(std::uint32_t source, std::uint64_t offset) {
    Chunk chunk{};
    chunk.source = source;
    chunk.source_offset = offset;
    chunk.row_step = 1;
    chunk.first_segment = static_cast<std::uint32_t>(schedule_.segments.size());
    chunk.carrier = kNoCarrier;
    schedule_.chunks.push_back(chunk);
  }

  // Appends the bytes of the source from `offset` on to the last chunk.
  void append(const Job& job, std::uint64_t offset, std::uint64_t bytes) {
    Segment segment = blank(job);
    segment.chunk_offset = offset - schedule_.chunks.back().source_offset;
    segment.source_bytes = bytes;
    segment.dest_offset = job.op->dest_offset + job.dest_before(offset);
    segment.dest_bytes = bytes / job.geometry.block_bytes * job.geometry.dest_block_bytes;
    segment.op_offset = offset - job.begin();
    push(job, segment);
  }

  // Appends the job's columns of some rows to the last chunk.
  void append_rows(const Job& job, std::uint64_t row, std::uint64_t rows) {
    const Columns& columns = job.op->columns;
    const Chunk& chunk = schedule_.chunks.back();
    Segment segment = blank(job);
    if (chunk.segment_count != 0) {
      const Segment& last = schedule_.segments.back();
      segment.chunk_offset = round_up(last.chunk_offset + last.source_bytes, kGatherAlignment);
    }
    segment.source_bytes = rows * job.row_piece();
    segment.dest_offset = job.op->dest_offset + row * job.dest_row_bytes();
    segment.dest_bytes = rows * job.dest_row_bytes();
    segment.op_offset = row * job.row_piece();
    segment.row_begin = columns.begin;
    segment.row_bytes = job.row_piece();
    const std::uint64_t row_elements =
        job.row_piece() / job.geometry.block_bytes * job.geometry.block_len;
    if (columns.keep != 0 && columns.keep != row_elements) {
      segment.crop = {static_cast<std::uint32_t>(row_elements), columns.skip, columns.keep};
    }
    push(job, segment);
  }

  static Segment blank(const Job& job) {
    Segment segment{};
    segment.op = job.index;
    segment.lane = job.op->lane;
    segment.decoder = decoder_of(job.op->conversion);
    segment.unit = job.op->unit;
    segment.floats = job.op->floats;
    segment.scale = scale_of(job.op->conversion);
    return segment;
  }

  void push(const Job& job, Segment segment) {
    segment.elements = segment.source_bytes / job.geometry.block_bytes * job.geometry.block_len;
    schedule_.segments.push_back(segment);
    schedule_.chunks.back().segment_count += 1;
  }

  // The source range that the latest ranges cover together, if they follow or overlap each other.
  // Its bytes are already counted.
  struct Known {
    std::uint32_t source;
    std::uint64_t begin;
    std::uint64_t end;

    bool has(std::uint32_t other, std::uint64_t offset) const {
      return source == other && begin <= offset && offset <= end;
    }
  };

  std::uint64_t chunk_bytes_;
  Known known_{0, 0, 0};
  Schedule schedule_;
};

}  // namespace

std::vector<std::uint64_t> Schedule::unit_bytes() const {
  std::vector<std::uint64_t> sums = lanes.front().unit_bytes;
  for (std::size_t lane = 1; lane < lanes.size(); ++lane) {
    for (std::size_t unit = 0; unit < sums.size(); ++unit) {
      sums[unit] += lanes[lane].unit_bytes[unit];
    }
  }
  return sums;
}

std::uint64_t least_chunk_bytes(View<CopyOp> ops) noexcept {
  std::uint64_t least = 0;
  const CopyOp* before = nullptr;
  RowRoom room;
  for (const CopyOp& op : ops) {
    // An operation without a whole row will be refused.
    if (op.columns.row_bytes == 0 || op.source_bytes < op.columns.row_bytes) continue;
    if (before != nullptr && !has_same_rows(*before, op)) room = {};
    room.add(op);
    least = std::max(least, room.least());
    before = &op;
  }
  return least;
}

Schedule cut(View<CopyOp> ops, const Bounds& bounds, std::uint64_t chunk_bytes) {
  Cutter cutter(std::max(chunk_bytes, kMinChunkBytes), bounds.lanes, bounds.units);
  Group group;
  for (std::size_t index = 0; index < ops.size(); ++index) {
    const Job job{static_cast<std::uint32_t>(index), &ops[index],
                  check_op(index, ops[index], bounds)};
    if (!group.empty() && !joins(group, job)) {
      cutter.add(group);
      group.clear();
    }
    group.push_back(job);
  }
  if (!group.empty()) cutter.add(group);
  check_disjoint(ops);
  return cutter.finish();
}

}  // namespace phi3::transfer
