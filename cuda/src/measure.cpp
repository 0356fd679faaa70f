#include "transfer/measure.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include "transfer/decode_host.hpp"
#include "transfer/digest.hpp"
#include "transfer/error.hpp"
#include "transfer/host_memory.hpp"
#include "transfer/non_finite.hpp"
#include "transfer/rounding.hpp"

namespace transfer {
namespace {

// A multiple of every type's block length.
constexpr std::uint64_t kBlockElements = 256;

// More than any memory holds. Small enough that the sum of two, with padding, fits in 64 bits.
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 62;

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
struct Share {
  const std::uint8_t* source;
  std::byte* dest;
};

void work_on(const WorkShape& shape, const WorkBytes& bytes, const Share& share,
             std::uint64_t& result) {
  switch (shape.work) {
    case Work::kCopy:
    case Work::kCopyToNew:
      std::memcpy(share.dest, share.source, bytes.read);
      break;
    case Work::kDecodeToF16:
      decode::decode_to_f16(shape.ggml_type, share.source,
                            reinterpret_cast<std::uint16_t*>(share.dest), shape.elements, 1.0f);
      break;
    case Work::kCountNonFinite:
      result = sink(count_non_finite(
          FloatFormat::kF16, reinterpret_cast<const std::byte*>(share.source), shape.elements));
      break;
    case Work::kDigest:
      result = sink(digest_piece(share.source, bytes.read, 0));
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
    // An exponent of all ones, in any float at any nibble, makes some high nibble 7 or 15. Clear
    // the third bit of every such nibble.
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
    case Work::kCopy:
    case Work::kCopyToNew:
      return {halves, halves};
    case Work::kCountNonFinite:
    case Work::kDigest:
      return {halves, 0};
    case Work::kDecodeToF16:
      break;
  }
  const decode::TypeInfo* type = decode::find_type(shape.ggml_type);
  if (type == nullptr) {
    throw Error(Code::kInvalidArgument, 0,
                "ggml type " + std::to_string(shape.ggml_type) + " cannot be decoded");
  }
  return {measured_bytes(shape.elements / type->block_len, type->block_bytes), halves};
}

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
    if (shape.work == Work::kCopyToNew) renew_dest();
    return run_together(shape.threads, [&](std::uint32_t index) {
      std::byte* const from = source->data() + index * padded(bytes.read);
      std::byte* const to = dest->data() + index * padded(bytes.written);
      work_on(shape, bytes, {reinterpret_cast<const std::uint8_t*>(from), to}, results[index]);
    });
  });
}

}  // namespace transfer
