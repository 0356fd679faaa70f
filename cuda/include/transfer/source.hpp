// The sources of a call's bytes.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace phi3::transfer {

// The alignment of direct reads, in bytes. It is enough for all known file systems. If a file
// system refuses the first read, the file is read through the page cache.
constexpr std::uint64_t kSourceAlignment = 4096;

// Bytes that can be read at any position, by many threads at once.
class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  // Returns the length in bytes, against which operations are checked.
  virtual std::uint64_t bytes() const noexcept = 0;

  // Whether reads inside this range need a buffer with the alignment of their offset: equal modulo
  // kSourceAlignment. The range is not empty. The answer for a range never changes.
  virtual bool wants_alignment(std::uint64_t, std::uint64_t) noexcept { return false; }

  // Returns the preferred maximum of bytes in one read.
  virtual std::uint64_t read_bytes() const noexcept { return UINT64_MAX; }

  // Whether reads wait for something other than a core, so that more concurrent reads are faster.
  // This is an estimate, made before the first read.
  virtual bool wants_concurrency() noexcept { return false; }

  // Does work that can be done before the first read. Several threads call it at once. Reads need
  // not wait for it.
  virtual void prepare_reads() noexcept {}

  // Whether it was read in another way than requested, because the system refused.
  virtual bool fell_back() const noexcept { return false; }

  // Reads the bytes from `offset` on, and fills several places in memory with them, in order.
  // Returns false if the source cannot do this, or did not read all bytes. The caller then calls
  // read(), which throws if the bytes cannot be read.
  virtual bool read_scattered(std::uint64_t, const std::vector<iovec>&) { return false; }

  // Reads [offset, offset + bytes) into `out`. If wants_alignment() is true for the range, it may
  // also write around the range, up to the next multiples of kSourceAlignment. Returns soon after
  // `stop` is set; the bytes are then unspecified. Throws Error{kIo, kFileTruncated} with the
  // source's index.
  virtual void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                    const std::atomic<bool>& stop) = 0;
};

}  // namespace phi3::transfer
