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
#include "transfer/non_finite.hpp"

namespace transfer {
namespace {

// Whole blocks of every type.
constexpr std::uint64_t kBlockElements = 256;

// Keeps results alive for the compiler.
std::uint64_t sink(const NonFinite& found) { return found.infinite + found.nan; }
std::uint64_t sink(const Digest& digest) { return digest.sum ^ digest.mix; }

// Threads wait here until all are there, so that none runs on an idle machine.
class Gate {
 public:
  explicit Gate(std::uint32_t missing) : missing_(missing) {}

  void arrive_and_wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (--missing_ == 0) {
      opened_at_ = std::chrono::steady_clock::now();
      opened_.notify_all();
    }
    opened_.wait(lock, [this] { return missing_ == 0; });
  }

  std::chrono::steady_clock::time_point opened_at() const { return opened_at_; }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  std::uint32_t missing_;
  std::chrono::steady_clock::time_point opened_at_;
};

// One thread's bytes.
struct Share {
  const std::uint8_t* source;
  std::byte* dest;
};

void work_on(const WorkShape& shape, const WorkBytes& bytes, const Share& share,
             std::uint64_t& result) {
  switch (shape.work) {
    case Work::kCopy:
      std::memcpy(share.dest, share.source, bytes.read);
      break;
    case Work::kDecodeToF16:
      decode::decode_to_f16(shape.ggml_type, share.source,
                            reinterpret_cast<std::uint16_t*>(share.dest), shape.elements);
      break;
    case Work::kCountNonFinite:
      result = sink(count_non_finite(reinterpret_cast<const std::uint16_t*>(share.source),
                                     shape.elements));
      break;
    case Work::kDigest:
      result = sink(digest_piece(share.source, bytes.read, 0));
      break;
  }
}

// Runs `work` for every number below `threads` on a thread of its own. Returns the seconds from
// the moment all are ready to the end of the last.
template <typename WorkOfThread>
double run_together(std::uint32_t threads, const WorkOfThread& work) {
  Gate gate(threads);
  std::vector<std::thread> running;
  std::uint32_t index = 0;
  try {
    for (; index + 1 < threads; ++index) {
      running.emplace_back([&gate, &work, index] {
        gate.arrive_and_wait();
        work(index);
      });
    }
  } catch (const std::system_error& error) {
    // Those that wait must not wait for threads that never come.
    for (std::uint32_t absent = index; absent + 1 < threads; ++absent) {
      running.emplace_back();
    }
    throw Error(Code::kInternal, error.code().value(), "no thread can be started");
  }
  gate.arrive_and_wait();
  work(index);
  for (std::thread& thread : running) thread.join();
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - gate.opened_at();
  return elapsed.count();
}

}  // namespace
}  // namespace transfer
