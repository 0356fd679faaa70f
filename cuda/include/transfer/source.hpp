// Reads byte ranges of files, from many threads at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace transfer {

enum class Io : std::uint32_t {
  kRead = 0,    // positioned reads through the page cache
  kMapped = 1,  // copies from a mapping of the file
  kDirect = 2,  // O_DIRECT, past the page cache; buffered where the file system refuses
  kAuto = 3,    // for each range, kRead where the page cache has it and kDirect where not
};

// A file that stays open for the call. Not owned.
struct SourceFile {
  int descriptor;
  std::uint64_t bytes;  // length that the operations were checked against
};

// Satisfies every Linux file system's direct-I/O alignment; 512 would do for many.
constexpr std::uint64_t kSourceAlignment = 4096;

class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  // Whether reads inside this range, which is not empty, want their buffer as aligned as they are:
  // equal modulo kSourceAlignment. The answer stays the same.
  virtual bool wants_alignment(std::uint32_t file, std::uint64_t offset,
                               std::uint64_t bytes) noexcept = 0;

  // What is used in fact, after fallbacks.
  virtual Io io() const noexcept = 0;

  // Whether some of the bytes come from storage, as far as that can be told before the first read.
  virtual bool reads_storage() noexcept { return false; }

  // What can be done before the first read, by several threads together. Reads need not wait for
  // it.
  virtual void look_ahead() noexcept {}

  // Reads [offset, offset + bytes) of `file` to `out`. Where this wants alignment, it may also
  // write around the range, up to the next multiples of kSourceAlignment. Gives up between system
  // calls once `stop` is set (the result is then of no use). Throws Error{kIo, kFileTruncated}.
  virtual void read(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                    const std::atomic<bool>& stop) = 0;
};

// Throws Error{kIo, kHostOutOfMemory} where a mapping cannot be made.
std::unique_ptr<Source> open_source(Io io, const std::vector<SourceFile>& files);

}  // namespace transfer
