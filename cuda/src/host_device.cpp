#include <cstring>
#include <string>

#include "transfer/decode_host.hpp"
#include "transfer/device.hpp"
#include "transfer/host_buffer.hpp"
#include "transfer/host_memory.hpp"

namespace phi3::transfer {
namespace {

// New memory comes in pages of 2 MiB. The kernel clears a page on first touch. If several readers
// touch it at the same time, each clears a page and only one of these is kept. Each reader fills
// two pages alone, so that readers seldom touch the same new page.
constexpr std::uint64_t kStretchBytes = std::uint64_t{4} << 20;

// Converts in submit(), on the reader's own thread, so that nothing is ever in flight.
class HostQueue final : public Queue {
 public:
  std::uint64_t stretch_bytes() const noexcept override { return kStretchBytes; }
  bool works_in_submit() const noexcept override { return true; }
  void prepare_conversions() override {}
  void bind_thread() override {}

  OpTally* open_tallies(std::size_t operations) override {
    tallies_.assign(operations, OpTally{});
    return tallies_.data();
  }
  std::vector<OpTally> read_tallies(std::size_t) override { return tallies_; }

  std::byte* destination(const Batch& batch) const noexcept override {
    const Segment* const end = batch.segments + batch.count;
    // For most chunks of several segments, the first two segments decide.
    const bool straight =
        end_of_copy(batch.segments, end) == end && lands_directly(batch.segments, batch.count);
    return straight ? batch.dest + batch.segments->dest_offset : nullptr;
  }

  void submit(std::uint32_t, const Batch& batch, const std::byte* bytes) override {
    for (const Segment* segment = batch.segments; segment != batch.segments + batch.count;
         ++segment) {
      const std::byte* source = bytes + segment->chunk_offset;
      std::byte* dest = batch.dest + segment->dest_offset;
      if (segment->decoder != kCopyBytes) {
        decode(*segment, source, dest);
      } else if (source != dest && segment->source_bytes != 0) {
        std::memcpy(dest, source, segment->source_bytes);
      }
      if (batch.tallies != nullptr) tally(*segment, batch, source, dest);
    }
  }

  void await(std::uint32_t) override {}
  // submit() counts, while the floats are in the cache.
  void count_floats(const std::vector<Floats>&) override {}
  void finish() override {}
  // Readers do all work, and record it themselves.
  void start_timeline(const CallClock&, std::size_t) override {}
  void append_spans(std::vector<Span>&) override {}
  void end_timeline() noexcept override {}
  void settle() noexcept override {}

 private:
  static void decode(const Segment& segment, const std::byte* source, std::byte* dest) {
    const auto* blocks = reinterpret_cast<const std::uint8_t*>(source);
    auto* halves = reinterpret_cast<std::uint16_t*>(dest);
    if (segment.crop.row_elements == 0) {
      decode::decode_to_f16(segment.decoder, blocks, halves, segment.elements, segment.scale);
    } else {
      decode::decode_cropped_to_f16(segment.decoder, blocks, halves, segment.elements, segment.crop,
                                    segment.scale);
    }
  }

  // Adds atomically, because readers share the tallies.
  static void add(std::uint64_t& counter, std::uint64_t value) {
    if (value != 0) __atomic_fetch_add(&counter, value, __ATOMIC_RELAXED);
  }

  static void tally(const Segment& segment, const Batch& batch, const std::byte* source,
                    const std::byte* dest) {
    OpTally& tally = batch.tallies[segment.op];
    if (segment.floats != FloatFormat::kNone) {
      const NonFinite found =
          count_non_finite(segment.floats, dest, segment.dest_bytes / float_bytes(segment.floats));
      add(tally.non_finite.infinite, found.infinite);
      add(tally.non_finite.nan, found.nan);
    }
    if (batch.digest) {
      // Digest the copy, not the source, to detect errors of the copy.
      const std::byte* bytes = segment.decoder == kCopyBytes ? dest : source;
      const Digest digest = digest_piece(reinterpret_cast<const std::uint8_t*>(bytes),
                                         segment.source_bytes, segment.op_offset);
      add(tally.digest.sum, digest.sum);
      add(tally.digest.mix, digest.mix);
    }
  }

  std::vector<OpTally> tallies_;
};

class HostDevice final : public Device {
 public:
  DeviceKind kind() const noexcept override { return DeviceKind::kHost; }
  std::int32_t ordinal() const noexcept override { return 0; }
  std::string name() const override { return "host memory"; }
  std::string identity() const override { return "host"; }

  std::optional<MemoryInfo> memory() const override { return host_memory(); }

  std::unique_ptr<DeviceBuffer> allocate(std::uint64_t bytes) const override {
    return make_host_buffer(bytes);
  }
  std::unique_ptr<DeviceBuffer> allocate_shareable(std::uint64_t bytes) const override {
    return make_shareable_host_buffer(bytes);
  }
  std::unique_ptr<DeviceBuffer> import_memory(const std::vector<MemoryShareView>& shares,
                                              std::uint64_t bytes, Access access) const override {
    return import_host_buffer(shares, bytes, access);
  }

  bool pin(StagingRing&) const override { return false; }
  void unpin(StagingRing&) const noexcept override {}

  void load_code(const KernelUse&) const override {}

  std::unique_ptr<Queue> make_queue(const QueueShape&) const override {
    return std::make_unique<HostQueue>();
  }

  std::uint64_t conversion_bytes(const QueueShape&) const noexcept override { return 0; }
};

}  // namespace

std::shared_ptr<const Device> open_host_device() { return std::make_shared<const HostDevice>(); }

}  // namespace phi3::transfer
