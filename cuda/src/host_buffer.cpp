#include "transfer/host_buffer.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "transfer/descriptor.hpp"
#include "transfer/error.hpp"
#include "transfer/host_memory.hpp"

namespace phi3::transfer {
namespace {

// No process can change the size of a file that has these seals.
constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

// Reading and digesting are the same for all memory of the host.
class HostBuffer : public DeviceBuffer {
 public:
  std::byte* data() const noexcept override { return data_; }
  std::uint64_t size() const noexcept override { return size_; }

  void read(std::uint64_t offset, std::byte* out, std::uint64_t bytes) const override {
    check_inside(offset, bytes, size_);
    if (bytes != 0) std::memcpy(out, data_ + offset, bytes);
  }

  void write(std::uint64_t offset, const std::byte* source, std::uint64_t bytes) override {
    check_inside(offset, bytes, size_);
    check_writable(*this);
    if (bytes != 0) std::memcpy(data_ + offset, source, bytes);
  }

  std::vector<Digest> digests(const std::vector<ByteRange>& ranges) const override {
    std::vector<Digest> out;
    for (const ByteRange& range : ranges) {
      check_inside(range.offset, range.bytes, size_);
      check_digest_start(range.offset);
      out.push_back(digest_piece(reinterpret_cast<const std::uint8_t*>(data_ + range.offset),
                                 range.bytes, 0));
    }
    return out;
  }

  PointerInfo locate(std::uint64_t offset) const override {
    check_inside(offset, 1, size_);
    return {reinterpret_cast<std::uint64_t>(data_ + offset), DeviceKind::kHost, 0};
  }

 protected:
  HostBuffer() = default;
  ~HostBuffer() override { unmap(); }

  void map(std::uint64_t bytes, int protection, int flags, int descriptor) {
    if (bytes == 0) return;
    void* memory = mmap(nullptr, bytes, protection, flags, descriptor, 0);
    if (memory == MAP_FAILED) {
      const int error = errno;
      throw Error(Code::kOutOfMemory, error,
                  "cannot map " + std::to_string(bytes) + " bytes of host memory");
    }
    data_ = static_cast<std::byte*>(memory);
    size_ = bytes;
    // Only a hint: fewer page faults on first touch.
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
  }

  void unmap() noexcept {
    if (data_ != nullptr) munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
};

class PrivateBuffer final : public HostBuffer {
 public:
  explicit PrivateBuffer(std::uint64_t bytes) {
    map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  }
};

// Throws the error of a failed call that changes a file in memory.
[[noreturn]] void fail(Code code, const std::string& what) {
  const int error = errno;
  throw Error(code, error, what + ": " + std::generic_category().message(error));
}

// A mapped file in memory.
class FileBuffer final : public HostBuffer {
 public:
  explicit FileBuffer(std::uint64_t bytes)
      : file_(memfd_create("device memory", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    if (file_.value() < 0) fail(Code::kOutOfMemory, "cannot make a file in memory");
    set_size(bytes);
  }

  FileBuffer(Descriptor file, std::uint64_t bytes, Access access)
      : file_(std::move(file)),
        writable_(access == Access::kReadWrite),
        is_shared_(true),
        may_change_(writable_) {
    if (writable_) {
      map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.value());
    } else {
      map(bytes, PROT_READ, MAP_PRIVATE, file_.value());
    }
  }

  bool is_shareable() const noexcept override { return true; }
  bool is_shared() const noexcept override { return is_shared_; }
  bool is_writable() const noexcept override { return writable_; }
  bool may_change() const noexcept override { return may_change_; }

  // A private mapping is one that the kernel does not count as a writer: then share() can seal the
  // file.
  void protect() override {
    if (size() != 0 &&
        mmap(data(), size(), PROT_READ, MAP_PRIVATE | MAP_FIXED, file_.value(), 0) == MAP_FAILED) {
      fail(Code::kDeviceFailure, "cannot make host memory read-only");
    }
    writable_ = false;
  }

  std::vector<MemoryShare> share() override {
    Descriptor copy(fcntl(file_.value(), F_DUPFD_CLOEXEC, 0));
    if (copy.value() < 0) fail(Code::kDeviceFailure, "cannot copy a descriptor");
    std::vector<MemoryShare> shares;
    if (size() == 0) return shares;
    // Sealing also fails if another process still has a mapping that it can write to.
    const int seals = writable_ ? kSizeSeals : kSizeSeals | F_SEAL_WRITE;
    if (!is_shared_ && fcntl(file_.value(), F_ADD_SEALS, seals) != 0) {
      fail(Code::kDeviceFailure, "cannot seal host memory");
    }
    may_change_ = may_change_ || writable_;
    is_shared_ = true;
    shares.push_back({std::move(copy), size()});
    return shares;
  }

  void resize(std::uint64_t bytes) override {
    if (is_shared_) {
      throw Error(Code::kInvalidArgument, 0, "shared memory cannot change its size");
    }
    const std::uint64_t before = size();
    unmap();
    try {
      if (bytes > before) check_host_memory(bytes - before, Code::kOutOfMemory, "host memory");
      set_size(bytes);
    } catch (...) {
      (void)ftruncate(file_.value(), 0);
      throw;
    }
    writable_ = true;
  }

  void give_access(const Device&) override {}

 private:
  void set_size(std::uint64_t bytes) {
    // A call above the limit would send SIGXFSZ, which ends the process.
    rlimit limit{};
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur) {
      errno = EFBIG;
      fail(Code::kOutOfMemory,
           "shareable host memory is a file: RLIMIT_FSIZE (`ulimit -f`) allows only " +
               std::to_string(limit.rlim_cur) + " bytes, and " + std::to_string(bytes) +
               " are needed");
    }
    if (ftruncate(file_.value(), static_cast<off_t>(bytes)) != 0) {
      fail(Code::kOutOfMemory, "cannot make " + std::to_string(bytes) + " bytes of host memory");
    }
    map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.value());
  }

  Descriptor file_;
  bool writable_ = true;
  bool is_shared_ = false;
  bool may_change_ = false;
};

[[noreturn]] void foreign(const std::string& what) {
  throw Error(Code::kForeignMemory, 0, "the descriptor is not shared host memory: " + what);
}

// Fails if the file can get shorter or, for a read-only mapping, if its content can change.
void check_file(int file, std::uint64_t bytes, Access access) {
  struct stat status{};
  if (fstat(file, &status) != 0) foreign("it is not open");
  const int seals = fcntl(file, F_GET_SEALS);
  if (!S_ISREG(status.st_mode) || seals < 0) foreign("it is not a file in memory");
  if (static_cast<std::uint64_t>(status.st_size) != bytes) {
    foreign("it has " + std::to_string(status.st_size) + " bytes, not " + std::to_string(bytes));
  }
  if ((seals & kSizeSeals) != kSizeSeals) foreign("its size is not sealed");
  const bool is_sealed = (seals & F_SEAL_WRITE) != 0;
  if (access == Access::kReadOnly && !is_sealed) foreign("its content is not sealed");
  if (access == Access::kReadWrite && (is_sealed || (fcntl(file, F_GETFL) & O_ACCMODE) != O_RDWR)) {
    foreign("it is read-only");
  }
}

}  // namespace

std::unique_ptr<DeviceBuffer> make_host_buffer(std::uint64_t bytes) {
  check_host_memory(bytes, Code::kOutOfMemory, "host memory");
  return std::make_unique<PrivateBuffer>(bytes);
}

std::unique_ptr<DeviceBuffer> make_shareable_host_buffer(std::uint64_t bytes) {
  check_host_memory(bytes, Code::kOutOfMemory, "host memory");
  return std::make_unique<FileBuffer>(bytes);
}

std::unique_ptr<DeviceBuffer> import_host_buffer(const std::vector<MemoryShareView>& shares,
                                                 std::uint64_t bytes, Access access) {
  if (bytes == 0 && shares.empty()) return std::make_unique<PrivateBuffer>(0);
  if (shares.size() != 1 || shares[0].bytes != bytes) {
    throw Error(Code::kForeignMemory, 0,
                "shared host memory is one descriptor of " + std::to_string(bytes) + " bytes");
  }
  check_file(shares[0].descriptor, bytes, access);
  Descriptor copy(fcntl(shares[0].descriptor, F_DUPFD_CLOEXEC, 0));
  if (copy.value() < 0) fail(Code::kDeviceFailure, "cannot copy a descriptor");
  return std::make_unique<FileBuffer>(std::move(copy), bytes, access);
}

}  // namespace phi3::transfer
