#include "transfer/source.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "transfer/error.hpp"
#include "transfer/guarded_copy.hpp"

namespace transfer {
namespace {

// Readers look at `stop` this often, so that cancelling does not wait for a slow disk's whole
// chunk.
constexpr std::uint64_t kPiece = std::uint64_t{1} << 20;

// Smaller where somebody works on the bytes meanwhile: they must stay in the nearest cache for it.
constexpr std::uint64_t kWorkedPiece = std::uint64_t{256} << 10;

std::uint64_t piece_of(const Reading* reading) {
  return reading == nullptr ? kPiece : kWorkedPiece;
}

// Satisfies every Linux file system's direct-I/O alignment; 512 would do for many.
constexpr std::uint64_t kDirectAlignment = 4096;

[[noreturn]] void truncated(std::uint32_t file, std::uint64_t end, std::uint64_t expected) {
  throw Error(Code::kFileTruncated, 0,
              "source file " + std::to_string(file) + " ended at byte " + std::to_string(end) +
                  " while bytes up to " + std::to_string(expected) + " were expected");
}

// Reads until `wanted` bytes are there; `least` of them must come before the end of the file.
void read_fully(int descriptor, std::uint32_t file, std::uint64_t offset, std::uint64_t wanted,
                std::uint64_t least, std::byte* out, const std::atomic<bool>& stop,
                std::uint64_t largest) {
  std::uint64_t done = 0;
  while (done < wanted && !stop.load(std::memory_order_relaxed)) {
    const std::uint64_t piece = std::min(largest, wanted - done);
    const ssize_t got = pread(descriptor, out + done, piece, static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw io_error(errno, "reading source file " + std::to_string(file) + " at byte " +
                                std::to_string(offset + done));
    }
    if (got == 0) {
      if (done >= least) return;
      truncated(file, offset + done, offset + least);
    }
    done += static_cast<std::uint64_t>(got);
  }
}

class BufferedSource final : public Source {
 public:
  explicit BufferedSource(std::vector<SourceFile> files) : files_(std::move(files)) {}

  std::uint64_t slack() const noexcept override { return 0; }
  Io io() const noexcept override { return Io::kRead; }

  const std::byte* read(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes,
                        std::byte* buffer, const std::atomic<bool>& stop,
                        Reading* reading) const override {
    if (reading != nullptr) reading->restart();
    const std::uint64_t largest = piece_of(reading);
    for (std::uint64_t done = 0; done < bytes && !stop.load(std::memory_order_relaxed);) {
      const std::uint64_t piece = std::min(largest, bytes - done);
      read_fully(files_[file].descriptor, file, offset + done, piece, piece, buffer + done, stop,
                 largest);
      if (reading != nullptr) reading->piece(done, piece, buffer + done);
      done += piece;
    }
    return buffer;
  }

 private:
  std::vector<SourceFile> files_;
};

class Mapping {
 public:
  Mapping(const SourceFile& file, std::size_t index) : bytes_(file.bytes) {
    if (bytes_ == 0) return;
    void* memory = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.descriptor, 0);
    if (memory == MAP_FAILED) {
      throw io_error(errno, "mapping source file " + std::to_string(index));
    }
    data_ = static_cast<const std::byte*>(memory);
  }
  ~Mapping() {
    if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), bytes_);
  }
  Mapping(Mapping&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  Mapping& operator=(Mapping&&) = delete;

  const std::byte* data() const { return data_; }

 private:
  const std::byte* data_ = nullptr;
  std::uint64_t bytes_;
};

class MappedSource final : public Source {
 public:
  explicit MappedSource(const std::vector<SourceFile>& files) {
    mappings_.reserve(files.size());
    for (std::size_t i = 0; i < files.size(); ++i) mappings_.emplace_back(files[i], i);
  }

  std::uint64_t slack() const noexcept override { return 0; }
  Io io() const noexcept override { return Io::kMapped; }

  const std::byte* read(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes,
                        std::byte* buffer, const std::atomic<bool>& stop,
                        Reading* reading) const override {
    if (reading != nullptr) reading->restart();
    const std::byte* source = mappings_[file].data() + offset;
    for (std::uint64_t done = 0; done < bytes && !stop.load(std::memory_order_relaxed);) {
      const std::uint64_t piece = std::min(piece_of(reading), bytes - done);
      if (!guarded_copy(buffer + done, source + done, piece)) {
        truncated(file, offset + done, offset + bytes);
      }
      if (reading != nullptr) reading->piece(done, piece, buffer + done);
      done += piece;
    }
    return buffer;
  }

 private:
  std::vector<Mapping> mappings_;
};

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(Descriptor&& other) noexcept : value_(other.value_) { other.value_ = -1; }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&&) = delete;

  int value() const { return value_; }

 private:
  int value_;
};

class DirectSource final : public Source {
 public:
  explicit DirectSource(std::vector<Descriptor> files) : files_(std::move(files)) {}

  std::uint64_t slack() const noexcept override { return 2 * kDirectAlignment; }
  Io io() const noexcept override { return Io::kDirect; }

  const std::byte* read(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes,
                        std::byte* buffer, const std::atomic<bool>& stop,
                        Reading* reading) const override {
    const std::uint64_t lead = offset % kDirectAlignment;
    const std::uint64_t wanted =
        (lead + bytes + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment;
    read_fully(files_[file].value(), file, offset - lead, wanted, lead + bytes, buffer, stop,
               kPiece);
    if (reading != nullptr) {
      reading->restart();
      reading->piece(0, bytes, buffer + lead);
    }
    return buffer + lead;
  }

 private:
  std::vector<Descriptor> files_;
};

// Reads only what the page cache holds. False where it does not hold all of the range, or the file
// system cannot tell.
bool read_cached(int descriptor, std::uint64_t offset, std::uint64_t bytes, std::byte* out,
                 const std::atomic<bool>& stop, Reading* reading) {
  if (reading != nullptr) reading->restart();
  std::uint64_t heard = 0;
  for (std::uint64_t done = 0; done < bytes && !stop.load(std::memory_order_relaxed);) {
    // Up to the end of the piece, so that short reads do not shift those that follow.
    const std::uint64_t largest = piece_of(reading);
    const std::uint64_t end = std::min(bytes, done / largest * largest + largest);
    const iovec piece{out + done, end - done};
    const ssize_t got =
        preadv2(descriptor, &piece, 1, static_cast<off_t>(offset + done), RWF_NOWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<std::uint64_t>(got);
    if (reading != nullptr && done == end) {
      reading->piece(heard, done - heard, out + heard);
      heard = done;
    }
  }
  return true;
}

// What is cached is copied from the cache; what is not is read past it, which is faster and leaves
// the cache to those who use it.
class AutoSource final : public Source {
 public:
  AutoSource(std::vector<SourceFile> files, std::unique_ptr<Source> direct)
      : files_(std::move(files)), direct_(std::move(direct)) {}

  std::uint64_t slack() const noexcept override { return direct_->slack(); }
  Io io() const noexcept override { return Io::kAuto; }

  const std::byte* read(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes,
                        std::byte* buffer, const std::atomic<bool>& stop,
                        Reading* reading) const override {
    if (read_cached(files_[file].descriptor, offset, bytes, buffer, stop, reading)) return buffer;
    return direct_->read(file, offset, bytes, buffer, stop, reading);
  }

 private:
  std::vector<SourceFile> files_;
  std::unique_ptr<Source> direct_;
};

// A second, direct descriptor of the same open file; nothing where the file system refuses.
Descriptor reopen_direct(int descriptor) {
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  Descriptor direct(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (direct.value() < 0) return direct;
  // Some file systems accept the flag and refuse the read.
  void* probe = nullptr;
  if (posix_memalign(&probe, kDirectAlignment, kDirectAlignment) != 0) return Descriptor(-1);
  const ssize_t got = pread(direct.value(), probe, kDirectAlignment, 0);
  free(probe);
  return got < 0 ? Descriptor(-1) : std::move(direct);
}

// Null where the file system refuses.
std::unique_ptr<Source> open_direct(const std::vector<SourceFile>& files) {
  std::vector<Descriptor> direct;
  for (const SourceFile& file : files) {
    direct.push_back(reopen_direct(file.descriptor));
    if (direct.back().value() < 0) return nullptr;
  }
  return std::make_unique<DirectSource>(std::move(direct));
}

}  // namespace

std::unique_ptr<Source> open_source(Io io, const std::vector<SourceFile>& files) {
  static_assert(kMaxSlack >= 2 * kDirectAlignment, "landings have room for aligned reads");
  if (io == Io::kMapped) return std::make_unique<MappedSource>(files);
  if (io == Io::kDirect || io == Io::kAuto) {
    std::unique_ptr<Source> direct = open_direct(files);
    if (direct != nullptr && io == Io::kDirect) return direct;
    if (direct != nullptr) return std::make_unique<AutoSource>(files, std::move(direct));
  }
  return std::make_unique<BufferedSource>(files);
}

}  // namespace transfer
