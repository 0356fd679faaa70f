#include "transfer/call.hpp"

#include <sys/uio.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "transfer/brief_wait.hpp"
#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

// The largest number of places of one read that scatters its bytes.
constexpr std::size_t kMaxPlaces = IOV_MAX;

// The bytes of a segment in a share, from the start of the chunk.
struct Overlap {
  std::uint64_t begin;
  std::uint64_t end;
};

Overlap overlap(const Share& share, const Segment& segment) {
  return {std::max(share.offset, segment.chunk_offset),
          std::min(share.offset + share.bytes, segment.chunk_offset + segment.source_bytes)};
}

// Returns the operation of the share's first byte or, if that byte is padding, of the next one.
ErrorSite site_of(const Share& share, const Chunk& chunk, View<Segment> segments) {
  if (chunk.row_bytes != 0) return ErrorSite::of_operation(segments[0].op);
  const Segment* first = nullptr;
  for (const Segment& segment : segments) {
    const auto [begin, end] = overlap(share, segment);
    if (begin >= end) continue;
    if (first == nullptr || segment.chunk_offset < first->chunk_offset) first = &segment;
  }
  return first == nullptr ? ErrorSite{} : ErrorSite::of_operation(first->op);
}

}  // namespace

Call::Call(const CallWork& work, const CallClock* clock, std::uint32_t readers)
    : work_(work),
      clock_(clock),
      spans_(readers),
      scratch_(readers),
      places_(readers),
      board_(work.schedule.unit_bytes(), work.schedule.lanes.size(), readers),
      turns_(work.staging.slots, work.division, board_.stop(),
             [this](std::size_t chunk) { retire(chunk); }) {}

std::vector<Span> Call::timeline() const {
  std::vector<Span> out;
  for (const std::vector<Span>& spans : spans_) out.insert(out.end(), spans.begin(), spans.end());
  for (const std::unique_ptr<LaneCall>& lane : work_.lanes) lane->append_spans(out);
  for (Span& span : out) add_operations(span);
  return out;
}

// Adds the operations of the span's chunk. Operations that share a chunk have consecutive indices.
void Call::add_operations(Span& span) const {
  const std::vector<Chunk>& chunks = work_.schedule.chunks;
  if (span.chunk >= chunks.size()) return;
  const View<Segment> segments = work_.schedule.segments_of(chunks[span.chunk]);
  const auto [first, last] =
      std::minmax_element(segments.begin(), segments.end(),
                          [](const Segment& a, const Segment& b) { return a.op < b.op; });
  span.first_op = first->op;
  span.op_count = last->op - first->op + 1;
}

void Call::read_shares(std::uint32_t reader) noexcept {
  try {
    for (const std::unique_ptr<LaneCall>& lane : work_.lanes) lane->bind_thread();
    while (!stopped()) {
      const std::size_t next = next_.fetch_add(1, std::memory_order_relaxed);
      const std::vector<Stretch>& stretches = work_.division.stretches;
      if (next < stretches.size()) {
        read_stretch(reader, stretches[next]);
        continue;
      }
      if (next == stretches.size()) finish(reader);
      // Copies out of the cache of a sleeping core are slow. Therefore spin until the last copy is
      // done.
      wait_briefly([this] { return drained_ || stopped(); });
      break;
    }
  } catch (...) {
    board_.report_failure(std::current_exception());
  }
  if (stopped()) turns_.wake_all();
  board_.reader_finished();
}

template <typename Step>
void Call::timed(std::uint32_t reader, std::uint32_t lane, SpanKind kind, std::size_t chunk,
                 Step&& step) {
  if (clock_ == nullptr) {
    step();
    return;
  }
  const double start = clock_->seconds();
  step();
  spans_[reader].push_back({reader, lane, kind, chunk, start, clock_->seconds()});
}

// Staged bytes have the same offset in a page as in the source. Direct reads need that, and copies
// from the page cache are faster with it.
std::byte* Call::read_target(std::size_t index) const {
  const Chunk& chunk = work_.schedule.chunks[index];
  std::byte* const slot = work_.staging.data + turns_.slot_of(index) * work_.staging.slot_bytes;
  if (chunk.row_bytes != 0) return slot;
  // Bytes of several lanes cannot all be read directly to their destinations.
  if (chunk.part_count == 1) {
    const Part& part = work_.schedule.parts[chunk.first_part];
    std::byte* straight = work_.lanes[part.lane]->destination(work_.schedule, index, part);
    if (straight != nullptr &&
        !work_.sources[chunk.source]->wants_alignment(chunk.source_offset, chunk.bytes)) {
      return straight;
    }
  }
  return slot + chunk.source_offset % kSourceAlignment;
}

void Call::read_stretch(std::uint32_t reader, const Stretch& stretch) {
  for (std::size_t i = 0; i < stretch.count && !stopped(); ++i) {
    read_share(reader, work_.division.shares[stretch.first + i]);
  }
}

void Call::read_share(std::uint32_t reader, const Share& share) {
  bool entered = false;
  timed(reader, kNoLane, SpanKind::kWait, share.chunk,
        [&] { entered = turns_.enter(share.chunk); });
  if (!entered) return;
  const Schedule& schedule = work_.schedule;
  const Chunk& chunk = schedule.chunks[share.chunk];
  std::byte* const bytes = read_target(share.chunk);
  timed(reader, kNoLane, SpanKind::kRead, share.chunk, [&] {
    if (chunk.row_bytes == 0) {
      fill(share, bytes + share.offset);
    } else {
      gather(reader, share, bytes);
    }
  });
  if (stopped() || !turns_.filled(share.chunk)) return;
  submit(reader, share.chunk, bytes);
  turns_.submitted(share.chunk);
}

// Queues a chunk on every lane that needs it. `bytes` is the start of the chunk.
void Call::submit(std::uint32_t reader, std::size_t index, const std::byte* bytes) {
  const Schedule& schedule = work_.schedule;
  const Chunk& chunk = schedule.chunks[index];
  const std::uint32_t slot = turns_.slot_of(index);
  LaneCall* const carrier =
      chunk.carrier == kNoCarrier ? nullptr : work_.lanes[chunk.carrier].get();
  if (carrier != nullptr) {
    timed(reader, chunk.carrier, SpanKind::kQueue, index,
          [&] { carrier->carry(slot, schedule, index, schedule.parts_of(chunk)[0], bytes); });
  }
  for (const Part& part : schedule.parts_of(chunk)) {
    LaneCall& lane = *work_.lanes[part.lane];
    const SpanKind kind = lane.works_in_submit() ? SpanKind::kWork : SpanKind::kQueue;
    timed(reader, part.lane, kind, index, [&] {
      if (carrier == nullptr) {
        lane.submit(slot, schedule, index, part, bytes);
      } else {
        lane.take(slot, schedule, index, part, *carrier);
      }
    });
  }
}

void Call::read(const Share& share, std::byte* out) {
  const Chunk& chunk = work_.schedule.chunks[share.chunk];
  with_site([&] { return site_of(share, chunk, work_.schedule.segments_of(chunk)); },
            [&] {
              work_.sources[chunk.source]->read(chunk.source_offset + share.offset, share.bytes,
                                                out, board_.stop());
            });
}

void Call::fill(const Share& share, std::byte* out) {
  read(share, out);
  // A stopped read leaves unspecified bytes.
  if (!stopped()) examine(share, out);
}

// Writes the columns of each segment to its place in the slot.
void Call::gather(std::uint32_t reader, const Share& share, std::byte* slot) {
  const Chunk& chunk = work_.schedule.chunks[share.chunk];
  if (!gather_straight(reader, share, slot)) gather_from_rows(reader, share, slot);
  if (stopped()) return;
  const std::uint64_t first = share.offset / chunk.row_bytes;
  const std::uint64_t count = share.bytes / chunk.row_bytes;
  for (const Segment& segment : work_.schedule.segments_of(chunk)) {
    examine(segment, slot + segment.chunk_offset + first * segment.row_bytes,
            count * segment.row_bytes, segment.op_offset + first * segment.row_bytes);
  }
}

// Reads straight to the slot. Returns false if the source cannot scatter, or if the segments do not
// divide each row.
bool Call::gather_straight(std::uint32_t reader, const Share& share, std::byte* slot) {
  const Chunk& chunk = work_.schedule.chunks[share.chunk];
  const View<Segment> segments = work_.schedule.segments_of(chunk);
  std::uint64_t end = 0;
  for (const Segment& segment : segments) {
    if (segment.row_begin != end) return false;
    end = segment.row_begin + segment.row_bytes;
  }
  if (end != chunk.row_bytes || segments.size() > kMaxPlaces) return false;
  std::vector<iovec>& places = places_[reader];
  const std::uint64_t most_rows = kMaxPlaces / segments.size();
  const std::uint64_t last = (share.offset + share.bytes) / chunk.row_bytes;
  for (std::uint64_t row = share.offset / chunk.row_bytes; row < last && !stopped();) {
    const std::uint64_t first = row;
    places.clear();
    for (; row < last && row - first < most_rows; ++row) {
      for (const Segment& segment : segments) {
        places.push_back(
            {slot + segment.chunk_offset + row * segment.row_bytes, segment.row_bytes});
      }
    }
    const std::uint64_t offset = chunk.source_offset + first * chunk.row_bytes;
    if (!work_.sources[chunk.source]->read_scattered(offset, places)) return false;
  }
  return true;
}

// Reads rows into memory of the reader, which stays in its core's cache, and copies their columns
// to the slot.
void Call::gather_from_rows(std::uint32_t reader, const Share& share, std::byte* slot) {
  const Chunk& chunk = work_.schedule.chunks[share.chunk];
  const std::uint64_t lead = (chunk.source_offset + share.offset) % kSourceAlignment;
  std::byte* const rows = scratch_[reader].reserve(lead + share.bytes + kSourceAlignment) + lead;
  read(share, rows);
  if (stopped()) return;
  const std::uint64_t first = share.offset / chunk.row_bytes;
  const std::uint64_t count = share.bytes / chunk.row_bytes;
  for (const Segment& segment : work_.schedule.segments_of(chunk)) {
    std::byte* const out = slot + segment.chunk_offset + first * segment.row_bytes;
    for (std::uint64_t row = 0; row < count; ++row) {
      std::memcpy(out + row * segment.row_bytes, rows + row * chunk.row_bytes + segment.row_begin,
                  segment.row_bytes);
    }
  }
}

void Call::examine(const Share& share, const std::byte* bytes) {
  const Chunk& chunk = work_.schedule.chunks[share.chunk];
  for (const Segment& segment : work_.schedule.segments_of(chunk)) {
    const auto [begin, end] = overlap(share, segment);
    if (begin >= end) continue;
    examine(segment, bytes + (begin - share.offset), end - begin,
            segment.op_offset + (begin - segment.chunk_offset));
  }
}

void Call::examine(const Segment& segment, const std::byte* bytes, std::uint64_t count,
                   std::uint64_t offset) {
  // The first of the operations that read the same bytes examines them.
  if (work_.schedule.findings_of[segment.op] != segment.op) return;
  work_.findings.examine(segment, bytes, count, offset);
}

// Waits until every lane that has bytes in the chunk is done with its slot.
void Call::retire(std::size_t index) {
  const Schedule& schedule = work_.schedule;
  const Chunk& chunk = schedule.chunks[index];
  for (const Part& part : schedule.parts_of(chunk)) {
    work_.lanes[part.lane]->retire(turns_.slot_of(index), schedule.segments_of(part));
  }
  board_.landed(schedule.segments_of(chunk), chunk.needed_bytes);
}

void Call::finish(std::uint32_t reader) {
  timed(reader, kNoLane, SpanKind::kWait, work_.schedule.chunks.size(), [&] { turns_.drain(); });
  if (!stopped()) {
    for (const std::unique_ptr<LaneCall>& lane : work_.lanes) lane->finish();
  }
  drained_ = true;
}

}  // namespace phi3::transfer
