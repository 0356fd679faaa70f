#include "cuda_buffer.hpp"

#include <mutex>
#include <string>

#include "check.hpp"
#include "device_guard.hpp"
#include "digester.hpp"
#include "mapped_memory.hpp"
#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

// Reading, writing and digesting are the same for all memory of a GPU.
class CudaBuffer : public DeviceBuffer {
 public:
  std::uint64_t size() const noexcept override { return size_; }

  void read(std::uint64_t offset, std::byte* out, std::uint64_t bytes) const override {
    check_inside(offset, bytes, size_);
    if (bytes == 0) return;
    const DeviceGuard guard(ordinal_);
    check(cudaMemcpy(out, data() + offset, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy",
          "reading the device buffer back");
  }

  void write(std::uint64_t offset, const std::byte* source, std::uint64_t bytes) override {
    check_inside(offset, bytes, size_);
    check_writable(*this);
    if (bytes == 0) return;
    const DeviceGuard guard(ordinal_);
    check(cudaMemcpy(data() + offset, source, bytes, cudaMemcpyHostToDevice), "cudaMemcpy",
          "writing to the device buffer");
  }

  std::vector<Digest> digests(const std::vector<ByteRange>& ranges) const override {
    for (const ByteRange& range : ranges) {
      check_inside(range.offset, range.bytes, size_);
      check_digest_start(range.offset);
    }
    if (ranges.empty()) return {};
    const std::lock_guard<std::mutex> lock(digester_mutex_);
    const DeviceGuard guard(ordinal_);
    if (digester_ == nullptr) digester_ = std::make_unique<Digester>();
    return digester_->digests(data(), ranges);
  }

  PointerInfo locate(std::uint64_t offset) const override {
    check_inside(offset, 1, size_);
    const DeviceGuard guard(ordinal_);
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, data() + offset), "cudaPointerGetAttributes");
    const bool on_device = attributes.type == cudaMemoryTypeDevice;
    return {reinterpret_cast<std::uint64_t>(data() + offset),
            on_device ? DeviceKind::kCuda : DeviceKind::kHost, attributes.device};
  }

 protected:
  CudaBuffer(int ordinal, std::uint64_t bytes) : ordinal_(ordinal), size_(bytes) {}

  // Waits for digests of the memory. Destructors of derived classes call it before they free the
  // memory, with the GPU current.
  void drop_digester() noexcept { digester_.reset(); }
  bool has_digester() const noexcept { return digester_ != nullptr; }
  int ordinal() const noexcept { return ordinal_; }
  void set_size(std::uint64_t bytes) noexcept { size_ = bytes; }

 private:
  int ordinal_;
  std::uint64_t size_;
  mutable std::mutex digester_mutex_;
  mutable std::unique_ptr<Digester> digester_;  // made on first use
};

class PlainBuffer final : public CudaBuffer {
 public:
  PlainBuffer(int gpu, std::uint64_t bytes) : CudaBuffer(gpu, bytes) {
    if (bytes == 0) return;
    const DeviceGuard guard(gpu);
    // Nothing may throw after a successful call.
    const std::string size = std::to_string(bytes) + " bytes";
    check(cudaMalloc(&data_, bytes), "cudaMalloc", size);
  }

  ~PlainBuffer() override {
    if (data_ == nullptr && !has_digester()) return;
    // A destructor cannot report errors, and a driver that is shutting down has already freed the
    // memory.
    const QuietDeviceGuard guard(ordinal());
    drop_digester();
    (void)cudaFree(data_);
  }

  std::byte* data() const noexcept override { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

class MappedBuffer final : public CudaBuffer {
 public:
  MappedBuffer(int gpu, std::uint64_t bytes) : MappedBuffer(gpu) {
    const DeviceGuard guard(gpu);
    resize_memory(bytes);
  }

  MappedBuffer(int gpu, const std::vector<MemoryShareView>& shares, std::uint64_t bytes,
               Access access)
      : MappedBuffer(gpu) {
    const DeviceGuard guard(gpu);
    std::uint64_t shared = 0;
    for (const MemoryShareView& share : shares) shared += share.bytes;
    if (shared < bytes) {
      throw Error(Code::kForeignMemory, 0,
                  "the descriptors have " + std::to_string(shared) + " bytes, not " +
                      std::to_string(bytes));
    }
    memory_->import(shares, access);
    is_shared_ = true;
    set_size(bytes);
  }

  ~MappedBuffer() override {
    const QuietDeviceGuard guard(ordinal());
    drop_digester();
    memory_.reset();
  }

  std::byte* data() const noexcept override { return memory_->data(); }
  bool is_shareable() const noexcept override { return true; }
  bool is_shared() const noexcept override { return is_shared_; }
  bool is_writable() const noexcept override { return memory_->is_writable(); }

  void protect() override {
    const DeviceGuard guard(ordinal());
    memory_->protect();
  }

  std::vector<MemoryShare> share() override {
    const DeviceGuard guard(ordinal());
    is_shared_ = true;
    return memory_->share();
  }

  void resize(std::uint64_t bytes) override {
    if (is_shared_) {
      throw Error(Code::kInvalidArgument, 0, "shared memory cannot change its size");
    }
    const DeviceGuard guard(ordinal());
    resize_memory(bytes);
  }

  void give_access(const Device& peer) override {
    if (peer.kind() != DeviceKind::kCuda) return;
    const DeviceGuard guard(ordinal());
    memory_->give_access(peer.ordinal());
  }

 private:
  // A constructor that delegates to this one and then throws runs the destructor.
  explicit MappedBuffer(int gpu)
      : CudaBuffer(gpu, 0), memory_(std::make_unique<MappedMemory>(gpu)) {}

  void resize_memory(std::uint64_t bytes) {
    set_size(0);
    memory_->resize(bytes);
    set_size(bytes);
  }

  std::unique_ptr<MappedMemory> memory_;
  bool is_shared_ = false;
};

}  // namespace

std::unique_ptr<DeviceBuffer> make_cuda_buffer(int ordinal, std::uint64_t bytes) {
  return std::make_unique<PlainBuffer>(ordinal, bytes);
}

std::unique_ptr<DeviceBuffer> make_mapped_buffer(int ordinal, std::uint64_t bytes) {
  return std::make_unique<MappedBuffer>(ordinal, bytes);
}

std::unique_ptr<DeviceBuffer> import_mapped_buffer(int ordinal,
                                                   const std::vector<MemoryShareView>& shares,
                                                   std::uint64_t bytes, Access access) {
  return std::make_unique<MappedBuffer>(ordinal, shares, bytes, access);
}

}  // namespace phi3::transfer
