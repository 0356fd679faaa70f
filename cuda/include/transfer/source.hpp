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

// Hears of bytes as they are read, while they are in the processor's nearest cache.
class Reading {
 public:
  virtual ~Reading() = default;

  // What was heard so far is void: the range is read anew.
  virtual void restart() = 0;

  // Bytes [offset, offset + bytes) of the range stand at `data`. Pieces come in order and, but for
  // the last, are multiples of 4096 bytes long.
  virtual void piece(std::uint64_t offset, std::uint64_t bytes, const std::byte* data) = 0;
};

class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  // Bytes a landing needs beyond the chunk, so that reads can be aligned.
  virtual std::uint64_t slack() const noexcept = 0;

  // What is used in fact, after fallbacks.
  virtual Io io() const noexcept = 0;

  // Reads [offset, offset + bytes) of `file` into `buffer`, which has room for bytes + slack(), and
  // returns where in it the range starts. Gives up between pieces once `stop` is set (the result is
  // then of no use). `reading` may be null. Throws Error{kIo, kFileTruncated}.
  virtual const std::byte* read(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes,
                                std::byte* buffer, const std::atomic<bool>& stop,
                                Reading* reading) const = 0;
};

// Throws Error{kIo} where a mapping cannot be made.
std::unique_ptr<Source> open_source(Io io, const std::vector<SourceFile>& files);

// Room that any source may ask for beyond a chunk.
constexpr std::uint64_t kMaxSlack = 2 * 4096;

}  // namespace transfer
