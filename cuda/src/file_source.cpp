#include "transfer/file_source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <string>

#include "transfer/cache_survey.hpp"
#include "transfer/descriptor.hpp"
#include "transfer/error.hpp"
#include "transfer/file_mapping.hpp"
#include "transfer/guarded_copy.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

// Copies from a mapping check `stop` after every piece of this size.
constexpr std::uint64_t kMappedPiece = std::uint64_t{1} << 20;

[[noreturn]] void throw_truncated(const OpenFile& file, std::uint64_t end, std::uint64_t expected) {
  throw Error(Code::kFileTruncated, 0,
              "source file " + std::to_string(file.index) + " ended at byte " +
                  std::to_string(end) + ", but bytes up to " + std::to_string(expected) +
                  " are required",
              ErrorSite::of_source(file.index));
}

// Returns the file's size or `position`, whichever is less; `position` if the size is unknown.
std::uint64_t end_of(const OpenFile& file, std::uint64_t position) {
  struct stat status{};
  if (fstat(file.descriptor, &status) != 0 || status.st_size < 0) return position;
  return std::min(position, static_cast<std::uint64_t>(status.st_size));
}

// Throws for a copy from a mapping that stopped in [begin, end). The cause is the file's end or a
// page that cannot be read; the kernel does not say which.
[[noreturn]] void throw_unreadable(const OpenFile& file, std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t file_end = end_of(file, end);
  if (file_end < end) throw_truncated(file, file_end, end);
  throw io_error(EIO,
                 "reading source file " + std::to_string(file.index) + " through its mapping, " +
                     std::to_string(end - begin) + " bytes from byte " + std::to_string(begin),
                 ErrorSite::of_source(file.index));
}

// Reads until `least` bytes are there, and at most `wanted` bytes. The file must hold `least`
// bytes. Every read starts at a multiple of `granule` from the first.
void read_fully(const OpenFile& file, std::uint64_t offset, std::uint64_t wanted,
                std::uint64_t least, std::uint64_t granule, std::byte* out,
                const std::atomic<bool>& stop) {
  std::uint64_t done = 0;
  while (done < wanted && !stop.load(std::memory_order_relaxed)) {
    const ssize_t got =
        pread(file.descriptor, out + done, wanted - done, static_cast<off_t>(offset + done));
    if (got < 0) {
      // Save it first: making the text may change it.
      const int error = errno;
      if (error == EINTR) continue;
      throw io_error(error,
                     "reading source file " + std::to_string(file.index) + " at byte " +
                         std::to_string(offset + done),
                     ErrorSite::of_source(file.index));
    }
    const std::uint64_t end = done + static_cast<std::uint64_t>(got);
    if (end >= least) return;
    // A direct read that was cut short resumes where a direct read can start.
    const std::uint64_t resumed = round_down(end, granule);
    if (resumed == done) throw_truncated(file, end_of(file, offset + end), offset + least);
    done = resumed;
  }
}

std::uint64_t bytes_of(const std::vector<iovec>& places) {
  return std::accumulate(places.begin(), places.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const iovec& place) { return sum + place.iov_len; });
}

// Reads into at most IOV_MAX places. Returns whether all bytes were read.
bool read_places(const OpenFile& file, std::uint64_t offset, const std::vector<iovec>& places,
                 int flags) {
  const ssize_t got = preadv2(file.descriptor, places.data(), static_cast<int>(places.size()),
                              static_cast<off_t>(offset), flags);
  return got >= 0 && static_cast<std::uint64_t>(got) == bytes_of(places);
}

class FileSource : public Source {
 public:
  std::uint64_t bytes() const noexcept override { return file_.bytes; }

 protected:
  explicit FileSource(const OpenFile& file) : file_(file) {}

  const OpenFile file_;
};

class BufferedSource final : public FileSource {
 public:
  BufferedSource(const OpenFile& file, bool fell_back) : FileSource(file), fell_back_(fell_back) {}

  bool fell_back() const noexcept override { return fell_back_; }

  bool read_scattered(std::uint64_t offset, const std::vector<iovec>& places) override {
    return read_places(file_, offset, places, 0);
  }

  void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
            const std::atomic<bool>& stop) override {
    read_fully(file_, offset, bytes, bytes, 1, out, stop);
  }

 private:
  bool fell_back_;
};

class MappedSource final : public FileSource {
 public:
  explicit MappedSource(const OpenFile& file) : FileSource(file), mapping_(file) {}

  void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
            const std::atomic<bool>& stop) override {
    const std::byte* source = mapping_.data() + offset;
    for (std::uint64_t done = 0; done < bytes && !stop.load(std::memory_order_relaxed);) {
      const std::uint64_t piece = std::min(kMappedPiece, bytes - done);
      if (!guarded_copy(out + done, source + done, piece)) {
        throw_unreadable(file_, offset + done, offset + done + piece);
      }
      done += piece;
    }
  }

 private:
  FileMapping mapping_;
};

class DirectSource final : public FileSource {
 public:
  DirectSource(const OpenFile& file, Descriptor direct)
      : FileSource({direct.value(), file.bytes, file.index}), direct_(std::move(direct)) {}

  bool wants_alignment(std::uint64_t, std::uint64_t) noexcept override { return true; }
  bool wants_concurrency() noexcept override { return true; }

  void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
            const std::atomic<bool>& stop) override {
    const std::uint64_t lead = offset % kSourceAlignment;
    const std::uint64_t wanted = round_up(lead + bytes, kSourceAlignment);
    read_fully(file_, offset - lead, wanted, lead + bytes, kSourceAlignment, out - lead, stop);
  }

 private:
  Descriptor direct_;
};

// Reads only from the page cache. Returns false if the cache does not hold all of the range, or if
// the file system does not support such reads.
bool read_cached(const OpenFile& file, std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                 const std::atomic<bool>& stop) {
  for (std::uint64_t done = 0; done < bytes && !stop.load(std::memory_order_relaxed);) {
    const iovec piece{out + done, bytes - done};
    const ssize_t got =
        preadv2(file.descriptor, &piece, 1, static_cast<off_t>(offset + done), RWF_NOWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<std::uint64_t>(got);
  }
  return true;
}

// Opens the same file again for direct reads. The descriptor is negative if the file system
// refuses.
Descriptor reopen_direct(int descriptor) {
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  Descriptor direct(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (direct.value() < 0) return direct;
  // Some file systems accept the flag and refuse the read.
  void* probe = nullptr;
  if (posix_memalign(&probe, kSourceAlignment, kSourceAlignment) != 0) return Descriptor(-1);
  ssize_t got = 0;
  do {
    got = pread(direct.value(), probe, kSourceAlignment, 0);
  } while (got < 0 && errno == EINTR);
  free(probe);
  return got < 0 ? Descriptor(-1) : std::move(direct);
}

// Returns null if the file system refuses.
std::unique_ptr<Source> open_direct(const OpenFile& file) {
  Descriptor direct = reopen_direct(file.descriptor);
  if (direct.value() < 0) return nullptr;
  return std::make_unique<DirectSource>(file, std::move(direct));
}

// Copies ranges from the page cache if they were cached. Reads other ranges directly, which is
// faster and leaves the cache to its other users.
class AutoSource final : public FileSource {
 public:
  AutoSource(const OpenFile& file, std::size_t files)
      : FileSource(file), survey_(file, files), buffered_(file, false) {}

  bool wants_alignment(std::uint64_t offset, std::uint64_t bytes) noexcept override {
    return survey_.is_unavailable() || !survey_.is_cached(offset, bytes);
  }
  bool fell_back() const noexcept override { return refused_.load(); }
  bool wants_concurrency() noexcept override { return !survey_.sample_is_cached(); }
  void prepare_reads() noexcept override { survey_.query_parts(); }

  bool read_scattered(std::uint64_t offset, const std::vector<iovec>& places) override {
    // A read that finds nothing would make the kernel read ahead, into the page cache.
    return survey_.is_cached(offset, bytes_of(places)) &&
           read_places(file_, offset, places, RWF_NOWAIT);
  }

  void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
            const std::atomic<bool>& stop) override {
    const bool cached = survey_.is_cached(offset, bytes);
    if (cached && read_cached(file_, offset, bytes, out, stop)) return;
    if (cached && !survey_.is_unavailable()) {
      // The range has left the cache since the query, and `out` may be unaligned.
      buffered_.read(offset, bytes, out, stop);
    } else {
      direct_source().read(offset, bytes, out, stop);
    }
  }

 private:
  // Opens it on first use: a file that was just written may have to reach the disk before it can be
  // read directly.
  Source& direct_source() {
    std::call_once(opened_, [this] {
      direct_ = open_direct(file_);
      refused_.store(direct_ == nullptr);
    });
    if (direct_ == nullptr) return buffered_;
    return *direct_;
  }

  CacheSurvey survey_;
  BufferedSource buffered_;
  std::once_flag opened_;
  std::unique_ptr<Source> direct_;
  std::atomic<bool> refused_{false};
};

}  // namespace

std::unique_ptr<Source> open_file_source(Io io, const OpenFile& file, std::size_t files) {
  if (io == Io::kMapped) return std::make_unique<MappedSource>(file);
  if (io == Io::kAuto) return std::make_unique<AutoSource>(file, files);
  if (io == Io::kDirect) {
    std::unique_ptr<Source> direct = open_direct(file);
    if (direct != nullptr) return direct;
  }
  return std::make_unique<BufferedSource>(file, io == Io::kDirect);
}

}  // namespace phi3::transfer
