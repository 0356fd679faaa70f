// Device memory with addresses and physical memory apart (the driver's virtual memory management).
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

#include "transfer/device.hpp"

namespace phi3::transfer {

// Consecutive addresses with memory of one GPU behind them. Not for use by several threads at once.
// The GPU must be current for every call, including the destructor. Every method throws
// Error{kDeviceFailure}.
class MappedMemory {
 public:
  explicit MappedMemory(int ordinal) : ordinal_(ordinal) {}
  // The driver does not wait for work that uses the memory, so this waits for the whole GPU.
  ~MappedMemory();
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;

  std::byte* data() const noexcept { return reinterpret_cast<std::byte*>(address_); }
  bool is_writable() const noexcept { return access_ == Access::kReadWrite; }

  // Maps at least this number of bytes, writable for this GPU alone. Keeps the memory that it has,
  // in whole pieces. Waits for the whole GPU if there is memory. Afterwards, or after an error,
  // there is no other memory. Throws Error{kOutOfMemory}.
  void resize(std::uint64_t bytes);

  // Maps memory of descriptors. Only for an object without memory. Throws Error{kForeignMemory}.
  void import(const std::vector<MemoryShareView>& shares, Access access);

  void protect();
  void give_access(int peer);
  std::vector<MemoryShare> share() const;

 private:
  // One physical allocation. It cannot change its size.
  struct Piece {
    CUmemGenericAllocationHandle memory;
    std::uint64_t bytes;
    Descriptor imported;  // that of other processes; none if this process has created the memory
  };

  static Descriptor descriptor_of(const Piece& piece);

  void create(std::uint64_t bytes);
  void map();
  void set_access();
  // Both do as much as they can.
  void unmap() noexcept;
  void release_last() noexcept;
  std::uint64_t bytes() const noexcept;

  int ordinal_;
  Access access_ = Access::kReadWrite;
  std::vector<int> peers_;
  std::vector<Piece> pieces_;
  CUdeviceptr address_ = 0;
  std::uint64_t reserved_ = 0;  // bytes of addresses
  std::uint64_t mapped_ = 0;    // bytes of addresses with memory
};

}  // namespace phi3::transfer
