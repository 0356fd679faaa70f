#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "transfer/decode_host.hpp"
#include "transfer/digest.hpp"
#include "transfer/error.hpp"
#include "transfer/host_memory.hpp"
#include "transfer/measure.hpp"
#include "transfer/non_finite.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

// Uses results, so that the compiler cannot remove the work.
std::uint64_t sink(const NonFinite& found) { return found.infinite + found.nan; }
std::uint64_t sink(const Digest& digest) { return digest.sum ^ digest.mix; }

// A barrier that starts all threads together, so that no thread is measured while it runs alone.
class Gate {
 public:
  explicit Gate(std::uint32_t missing) : missing_(missing) {}

  // Returns false if the other threads could not be started.
  bool arrive_and_wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (--missing_ == 0) {
      opened_at_ = std::chrono::steady_clock::now();
      changed_.notify_all();
    }
    changed_.wait(lock, [this] { return missing_ == 0 || abandoned_; });
    return !abandoned_;
  }

  void abandon() {
    const std::lock_guard<std::mutex> lock(mutex_);
    abandoned_ = true;
    changed_.notify_all();
  }

  std::chrono::steady_clock::time_point opened_at() const { return opened_at_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint32_t missing_;
  bool abandoned_ = false;
  std::chrono::steady_clock::time_point opened_at_;
};

// The memory of one thread.
struct ThreadMemory {
  const std::uint8_t* source;
  std::byte* dest;
};

void work_on(const WorkShape& shape, const WorkBytes& bytes, const ThreadMemory& memory,
             std::uint64_t& result) {
  switch (shape.work) {
    case MeasuredWork::kCopy:
    case MeasuredWork::kCopyToNew:
      std::memcpy(memory.dest, memory.source, bytes.read);
      break;
    case MeasuredWork::kDecodeToF16:
      decode::decode_to_f16(shape.ggml_type, memory.source,
                            reinterpret_cast<std::uint16_t*>(memory.dest), shape.elements, 1.0f);
      break;
    case MeasuredWork::kCountNonFinite:
      result = sink(count_non_finite(
          FloatFormat::kF16, reinterpret_cast<const std::byte*>(memory.source), shape.elements));
      break;
    case MeasuredWork::kDigest:
      result = sink(digest_piece(memory.source, bytes.read, 0));
      break;
  }
}

// Calls `work` with every number below `threads`, each on its own thread, all at once. Returns the
// seconds from the moment when all threads are ready until the last one ends.
template <typename WorkOfThread>
double run_together(std::uint32_t threads, const WorkOfThread& work) {
  Gate gate(threads);
  const auto run = [&gate, &work](std::uint32_t index) {
    if (gate.arrive_and_wait()) work(index);
  };
  std::vector<std::thread> running;
  const auto cancel = [&gate, &running] {
    gate.abandon();
    for (std::thread& thread : running) thread.join();
  };
  try {
    for (std::uint32_t index = 1; index < threads; ++index) running.emplace_back(run, index);
  } catch (const std::system_error& error) {
    cancel();
    throw Error(Code::kHostOutOfMemory, error.code().value(),
                "a measurement thread cannot be started");
  } catch (...) {
    cancel();
    throw;
  }
  run(0);
  for (std::thread& thread : running) thread.join();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - gate.opened_at();
  return elapsed.count();
}

// Rounds up to whole pages, so that no two threads share a page.
std::uint64_t padded(std::uint64_t bytes) { return round_up(bytes, 4096); }

}  // namespace

Rate measure_host_work(const Device& device, const WorkShape& shape, std::uint32_t runs) {
  const WorkBytes bytes = bytes_of(shape);
  const std::uint64_t source_bytes = measured_bytes(padded(bytes.read), shape.threads);
  const std::uint64_t dest_bytes = measured_bytes(padded(bytes.written), shape.threads);
  // Checks both at once, because a buffer takes memory only when it is written.
  check_host_memory(source_bytes + dest_bytes, Code::kOutOfMemory, "memory for a measurement");
  const std::unique_ptr<DeviceBuffer> source = device.allocate(source_bytes);
  std::unique_ptr<DeviceBuffer> dest;
  const auto renew_dest = [&] {
    dest.reset();
    dest = device.allocate(dest_bytes);
  };
  renew_dest();
  std::vector<std::uint64_t> results(shape.threads);
  // Each thread writes its own bytes first, so that the kernel allocates them near its core.
  run_together(shape.threads, [&](std::uint32_t index) {
    fill_finite(source->data() + index * padded(bytes.read), bytes.read, index);
  });
  return rate_of((bytes.read + bytes.written) * shape.threads, runs, [&] {
    if (shape.work == MeasuredWork::kCopyToNew) renew_dest();
    return run_together(shape.threads, [&](std::uint32_t index) {
      std::byte* const from = source->data() + index * padded(bytes.read);
      std::byte* const to = dest->data() + index * padded(bytes.written);
      work_on(shape, bytes, {reinterpret_cast<const std::uint8_t*>(from), to}, results[index]);
    });
  });
}

}  // namespace phi3::transfer
