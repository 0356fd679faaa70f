// Where a call's bytes come from.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace transfer {

// Satisfies every Linux file system's direct-I/O alignment; 512 would do for many.
constexpr std::uint64_t kSourceAlignment = 4096;

// Bytes that can be read at any position, from many threads at once.
class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  // The length that operations are checked against.
  virtual std::uint64_t bytes() const noexcept = 0;

  // Whether reads inside this range, which is not empty, want their buffer as aligned as they are:
  // equal modulo kSourceAlignment. The answer stays the same.
  virtual bool wants_alignment(std::uint64_t, std::uint64_t) noexcept { return false; }

  // The largest read that it likes.
  virtual std::uint64_t read_bytes() const noexcept { return UINT64_MAX; }

  // Whether reads wait for something else than a core, so that more of them at once gain, as far as
  // that can be told before the first read.
  virtual bool wants_concurrency() noexcept { return false; }

  // What can be done before the first read, by several threads together. Reads need not wait for
  // it.
  virtual void look_ahead() noexcept {}

  // Whether it was read in another way than was asked for, because the system refused.
  virtual bool fell_back() const noexcept { return false; }

  // Reads [offset, offset + bytes) to `out`. Where this wants alignment, it may also write around
  // the range, up to the next multiples of kSourceAlignment. Gives up soon after `stop` is set (the
  // result is then of no use). Throws Error{kIo, kFileTruncated} with the source's index.
  virtual void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                    const std::atomic<bool>& stop) = 0;
};

}  // namespace transfer
