// The times at which a GPU copies and converts each chunk of a call.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "check.hpp"
#include "stream.hpp"
#include "transfer/call_clock.hpp"
#include "transfer/timeline.hpp"

namespace phi3::transfer {

// Records with events when the device works on each chunk. Makes all events in advance, because
// making one takes longer than a small copy.
class DeviceTimeline {
 public:
  // The streams must be idle, so that the first event happens now.
  DeviceTimeline(const CallClock& clock, cudaStream_t stream, std::size_t chunks)
      : origin_(cudaEventDefault) {
    origin_.record(stream);
    check(cudaEventSynchronize(origin_.get()), "cudaEventSynchronize");
    origin_seconds_ = clock.seconds();
    chunks_.reserve(chunks);
    for (std::size_t i = 0; i < chunks; ++i) chunks_.emplace_back();
  }

  void starts(std::uint64_t chunk, cudaStream_t stream) {
    chunks_[chunk].submitted = true;
    chunks_[chunk].start.record(stream);
  }
  void copied(std::uint64_t chunk, cudaStream_t stream) { chunks_[chunk].copied.record(stream); }
  void worked(std::uint64_t chunk, cudaStream_t stream) {
    chunks_[chunk].has_work = true;
    chunks_[chunk].worked.record(stream);
  }

  void append_to(std::vector<Span>& out) const {
    for (std::size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      const ChunkEvents& events = chunks_[chunk];
      if (!events.submitted) continue;
      const double copied = seconds(events.copied);
      out.push_back({0, kNoLane, SpanKind::kCopy, chunk, seconds(events.start), copied});
      if (events.has_work) {
        out.push_back({0, kNoLane, SpanKind::kWork, chunk, copied, seconds(events.worked)});
      }
    }
  }

 private:
  struct ChunkEvents {
    Event start{cudaEventDefault};
    Event copied{cudaEventDefault};
    Event worked{cudaEventDefault};
    bool submitted = false;
    bool has_work = false;
  };

  double seconds(const Event& event) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, origin_.get(), event.get()), "cudaEventElapsedTime");
    return origin_seconds_ + static_cast<double>(milliseconds) / 1e3;
  }

  Event origin_;
  double origin_seconds_ = 0;
  std::vector<ChunkEvents> chunks_;
};

}  // namespace phi3::transfer
