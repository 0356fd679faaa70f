#include "transfer/fake_device.hpp"

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

constexpr const char* kName = "fake device";

// The status of a failing call.
constexpr int kStatus = 719;

class Calls {
 public:
  Calls(std::string failing, std::uint64_t nth) : failing_(std::move(failing)), nth_(nth) {}

  void enter(const char* call) {
    if (failing_ == call && made_.fetch_add(1) + 1 == nth_) {
      throw Error(Code::kDeviceFailure, kStatus, std::string("the fake device fails in ") + call);
    }
  }
  std::uint64_t made() const noexcept { return made_.load(); }

 private:
  std::string failing_;
  std::uint64_t nth_;
  std::atomic<std::uint64_t> made_{0};
};

class FakeQueue final : public Queue {
 public:
  FakeQueue(std::shared_ptr<Calls> calls, std::unique_ptr<Queue> host, std::uint32_t slots)
      : calls_(std::move(calls)), host_(std::move(host)), pending_(slots), carried_(slots) {}

  std::uint64_t stretch_bytes() const noexcept override { return 0; }
  void prepare_conversions() override { calls_->enter("prepare_conversions"); }
  OpTally* open_tallies(std::size_t operations) override {
    calls_->enter("open_tallies");
    for (const std::optional<Pending>& pending : pending_) {
      if (pending) throw Error(Code::kInternal, 0, "the call before left work behind");
    }
    return host_->open_tallies(operations);
  }
  std::vector<OpTally> read_tallies(std::size_t operations) override {
    calls_->enter("read_tallies");
    return host_->read_tallies(operations);
  }
  void bind_thread() override { calls_->enter("bind_thread"); }
  std::byte* destination(const Batch&) const noexcept override { return nullptr; }

  void submit(std::uint32_t slot, const Batch& batch, const std::byte* bytes) override {
    calls_->enter("submit");
    if (pending_[slot]) throw Error(Code::kInternal, 0, "a slot was submitted twice");
    pending_[slot] = Pending{batch, bytes, nullptr};
  }
  void carry(std::uint32_t slot, const Cargo& cargo, const std::byte* bytes) override {
    calls_->enter("carry");
    carried_[slot] = Carried{cargo, bytes};
  }
  void take(std::uint32_t slot, const Batch& batch, const Queue& carrier) override {
    calls_->enter("take");
    if (pending_[slot]) throw Error(Code::kInternal, 0, "a slot was submitted twice");
    pending_[slot] = Pending{batch, nullptr, &static_cast<const FakeQueue&>(carrier)};
  }
  void await(std::uint32_t slot) override {
    calls_->enter("await");
    work(slot);
  }
  void count_floats(const std::vector<Floats>&) override { calls_->enter("count_floats"); }
  void finish() override {
    calls_->enter("finish");
    settle();
  }
  void start_timeline(const CallClock&, std::size_t) override { calls_->enter("start_timeline"); }
  void append_spans(std::vector<Span>&) override { calls_->enter("append_spans"); }
  void end_timeline() noexcept override {}
  // A device finishes its queued work even after a call has failed.
  void settle() noexcept override {
    for (std::uint32_t slot = 0; slot < pending_.size(); ++slot) work(slot);
  }

 private:
  struct Pending {
    Batch batch;
    const std::byte* bytes;    // null if they are taken from the carrier
    const FakeQueue* carrier;  // null if the queue copies them itself
  };
  struct Carried {
    Cargo cargo;
    const std::byte* bytes;
  };

  void work(std::uint32_t slot) {
    const std::optional<Pending> pending = std::exchange(pending_[slot], std::nullopt);
    if (!pending) return;
    const Batch& batch = pending->batch;
    if (pending->carrier == nullptr) {
      host_->submit(slot, batch, pending->bytes);
      return;
    }
    const std::optional<Carried>& carried = pending->carrier->carried_[slot];
    if (!carried || carried->cargo.chunk != batch.chunk || carried->cargo.begin > batch.begin ||
        carried->cargo.end < batch.end) {
      throw Error(Code::kInternal, 0, "the carrier does not have the bytes");
    }
    host_->submit(slot, batch, carried->bytes);
  }

  std::shared_ptr<Calls> calls_;
  std::unique_ptr<Queue> host_;
  // One for each slot.
  std::vector<std::optional<Pending>> pending_;
  std::vector<std::optional<Carried>> carried_;
};

class FakeDevice final : public Device {
 public:
  FakeDevice(std::shared_ptr<Calls> calls, bool has_peers)
      : calls_(std::move(calls)), has_peers_(has_peers) {}

  std::uint64_t calls() const noexcept { return calls_->made(); }

  DeviceKind kind() const noexcept override { return host_->kind(); }
  std::int32_t ordinal() const noexcept override { return host_->ordinal(); }
  std::string name() const override { return kName; }
  std::string identity() const override { return host_->identity(); }
  bool can_take_from(const Device& carrier) const override {
    calls_->enter("can_take_from");
    return has_peers_ && carrier.name() == kName;
  }
  std::optional<MemoryInfo> memory() const override { return host_->memory(); }
  std::unique_ptr<DeviceBuffer> allocate(std::uint64_t bytes) const override {
    return host_->allocate(bytes);
  }
  std::unique_ptr<DeviceBuffer> allocate_shareable(std::uint64_t bytes) const override {
    return host_->allocate_shareable(bytes);
  }
  std::unique_ptr<DeviceBuffer> import_memory(const std::vector<MemoryShareView>& shares,
                                              std::uint64_t bytes, Access access) const override {
    return host_->import_memory(shares, bytes, access);
  }
  bool pin(StagingRing&) const override {
    calls_->enter("pin");
    return true;
  }
  void unpin(StagingRing&) const noexcept override {}
  void load_code(const KernelUse&) const override { calls_->enter("load_code"); }
  std::unique_ptr<Queue> make_queue(const QueueShape& shape) const override {
    calls_->enter("make_queue");
    return std::make_unique<FakeQueue>(calls_, host_->make_queue(shape), shape.slots);
  }
  std::uint64_t conversion_bytes(const QueueShape& shape) const noexcept override {
    return shape.slots * shape.slot_bytes;
  }

 private:
  std::shared_ptr<const Device> host_ = open_host_device();
  std::shared_ptr<Calls> calls_;
  bool has_peers_;
};

}  // namespace

namespace bridge {

std::unique_ptr<Device> open_fake(rust::Str failing, std::uint64_t nth, bool has_peers) {
  auto calls = std::make_shared<Calls>(std::string(failing), nth);
  return std::make_unique<Device>(std::make_shared<const FakeDevice>(std::move(calls), has_peers));
}

std::uint64_t fake_calls(const Device& device) noexcept {
  return static_cast<const FakeDevice&>(*device.get()).calls();
}

}  // namespace bridge
}  // namespace phi3::transfer
