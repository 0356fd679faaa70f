#include "mapped_memory.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "driver_function.hpp"

namespace phi3::transfer {
namespace {

// The largest piece. Memory that gets smaller keeps whole pieces, and the descriptors of all pieces
// of a model have to fit into one message between processes.
constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 30;

struct Driver {
  decltype(&cuMemGetAllocationGranularity) granularity;
  decltype(&cuMemCreate) create;
  decltype(&cuMemRelease) release;
  decltype(&cuMemAddressReserve) reserve;
  decltype(&cuMemAddressFree) free;
  decltype(&cuMemMap) map;
  decltype(&cuMemUnmap) unmap;
  decltype(&cuMemSetAccess) set_access;
  decltype(&cuMemExportToShareableHandle) export_memory;
  decltype(&cuMemImportFromShareableHandle) import_memory;
  decltype(&cuMemGetAllocationPropertiesFromHandle) properties;
};

const Driver& driver() {
  static const Driver functions{
      driver_function<decltype(Driver::granularity)>("cuMemGetAllocationGranularity"),
      driver_function<decltype(Driver::create)>("cuMemCreate"),
      driver_function<decltype(Driver::release)>("cuMemRelease"),
      driver_function<decltype(Driver::reserve)>("cuMemAddressReserve"),
      driver_function<decltype(Driver::free)>("cuMemAddressFree"),
      driver_function<decltype(Driver::map)>("cuMemMap"),
      driver_function<decltype(Driver::unmap)>("cuMemUnmap"),
      driver_function<decltype(Driver::set_access)>("cuMemSetAccess"),
      driver_function<decltype(Driver::export_memory)>("cuMemExportToShareableHandle"),
      driver_function<decltype(Driver::import_memory)>("cuMemImportFromShareableHandle"),
      driver_function<decltype(Driver::properties)>("cuMemGetAllocationPropertiesFromHandle"),
  };
  return functions;
}

constexpr CUmemAllocationHandleType kHandles = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

CUmemAllocationProp properties_of(int ordinal) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = kHandles;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, ordinal};
  return properties;
}

std::uint64_t rounded_up(std::uint64_t bytes, int ordinal) {
  const CUmemAllocationProp properties = properties_of(ordinal);
  std::size_t granule = 0;
  check_driver(driver().granularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
               "cuMemGetAllocationGranularity");
  return (bytes + granule - 1) / granule * granule;
}

[[noreturn]] void foreign(std::size_t index, int status, const std::string& what) {
  throw Error(Code::kForeignMemory, status,
              "descriptor " + std::to_string(index) + " is not memory of this GPU: " + what);
}

// Checks a call that gets a descriptor, or memory of one. Some errors are those of the descriptor.
void check_import(CUresult result, const char* call, std::size_t index) {
  switch (result) {
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_DEVICE:
    case CUDA_ERROR_INVALID_HANDLE:
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_OPERATING_SYSTEM:
    case CUDA_ERROR_UNKNOWN:
      foreign(index, static_cast<int>(result),
              std::string(cudaGetErrorName(static_cast<cudaError_t>(result))) + " from " + call);
    default:
      check_driver(result, call);
  }
}

// Refuses what cannot succeed, so that its first pieces do not fill the GPU. Others may allocate at
// the same time.
void check_free(std::uint64_t bytes) {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  if (bytes <= free_bytes) return;
  check(cudaErrorMemoryAllocation, "cuMemCreate",
        std::to_string(bytes) + " bytes, " + std::to_string(free_bytes) + " bytes free");
}

}  // namespace

MappedMemory::~MappedMemory() {
  if (pieces_.empty()) return;
  (void)cudaDeviceSynchronize();
  unmap();
  while (!pieces_.empty()) release_last();
}

void MappedMemory::resize(std::uint64_t bytes_wanted) {
  const std::uint64_t wanted = rounded_up(bytes_wanted, ordinal_);
  if (!pieces_.empty()) check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  unmap();
  access_ = Access::kReadWrite;
  peers_.clear();
  while (bytes() > wanted) release_last();
  try {
    if (bytes() < wanted) check_free(wanted - bytes());
    while (bytes() < wanted) create(std::min(wanted - bytes(), kPieceBytes));
    map();
  } catch (...) {
    unmap();
    while (!pieces_.empty()) release_last();
    throw;
  }
}

void MappedMemory::import(const std::vector<MemoryShareView>& shares, Access access) {
  access_ = access;
  pieces_.reserve(shares.size());
  for (std::size_t index = 0; index < shares.size(); ++index) {
    const MemoryShareView& share = shares[index];
    Descriptor copy(fcntl(share.descriptor, F_DUPFD_CLOEXEC, 0));
    if (copy.value() < 0) foreign(index, errno, "it cannot be copied");
    CUmemGenericAllocationHandle memory{};
    void* const descriptor = reinterpret_cast<void*>(std::intptr_t{share.descriptor});
    check_import(driver().import_memory(&memory, descriptor, kHandles),
                 "cuMemImportFromShareableHandle", index);
    pieces_.push_back({memory, share.bytes, std::move(copy)});
    CUmemAllocationProp properties{};
    check_import(driver().properties(&properties, memory), "cuMemGetAllocationPropertiesFromHandle",
                 index);
    if (properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        properties.location.id != ordinal_) {
      foreign(index, 0, "it is memory of another device");
    }
  }
  map();
}

void MappedMemory::protect() {
  access_ = Access::kReadOnly;
  set_access();
}

void MappedMemory::give_access(int peer) {
  if (std::find(peers_.begin(), peers_.end(), peer) != peers_.end()) return;
  peers_.push_back(peer);
  set_access();
}

std::vector<MemoryShare> MappedMemory::share() const {
  std::vector<MemoryShare> shares;
  for (const Piece& piece : pieces_) shares.push_back({descriptor_of(piece), piece.bytes});
  return shares;
}

// The driver exports only memory that this process has created.
Descriptor MappedMemory::descriptor_of(const Piece& piece) {
  if (piece.imported.value() >= 0) {
    Descriptor copy(fcntl(piece.imported.value(), F_DUPFD_CLOEXEC, 0));
    if (copy.value() < 0) throw Error(Code::kDeviceFailure, errno, "cannot copy a descriptor");
    return copy;
  }
  int file = -1;
  check_driver(driver().export_memory(&file, piece.memory, kHandles, 0),
               "cuMemExportToShareableHandle");
  // The driver does not promise it.
  (void)fcntl(file, F_SETFD, FD_CLOEXEC);
  return Descriptor(file);
}

void MappedMemory::create(std::uint64_t piece_bytes) {
  const CUmemAllocationProp properties = properties_of(ordinal_);
  // Nothing may throw between the call and the end of this function.
  pieces_.reserve(pieces_.size() + 1);
  const std::string size = std::to_string(piece_bytes) + " bytes";
  CUmemGenericAllocationHandle memory{};
  check_driver(driver().create(&memory, piece_bytes, &properties, 0), "cuMemCreate", size);
  pieces_.push_back({memory, piece_bytes, Descriptor(-1)});
}

void MappedMemory::map() {
  if (pieces_.empty()) return;
  check_driver(driver().reserve(&address_, bytes(), 0, 0, 0), "cuMemAddressReserve");
  reserved_ = bytes();
  for (std::size_t index = 0; index < pieces_.size(); ++index) {
    const Piece& piece = pieces_[index];
    const CUresult result = driver().map(address_ + mapped_, piece.bytes, 0, piece.memory, 0);
    // The size of memory of another process is only a promise.
    check_import(result, "cuMemMap", index);
    mapped_ += piece.bytes;
  }
  set_access();
}

void MappedMemory::set_access() {
  if (mapped_ == 0) return;
  const CUmemAccess_flags flags =
      is_writable() ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ;
  std::vector<CUmemAccessDesc> access{{{CU_MEM_LOCATION_TYPE_DEVICE, ordinal_}, flags}};
  for (const int peer : peers_) access.push_back({{CU_MEM_LOCATION_TYPE_DEVICE, peer}, flags});
  check_driver(driver().set_access(address_, mapped_, access.data(), access.size()),
               "cuMemSetAccess");
}

void MappedMemory::unmap() noexcept {
  if (mapped_ != 0) (void)driver().unmap(address_, mapped_);
  if (reserved_ != 0) (void)driver().free(address_, reserved_);
  address_ = 0;
  reserved_ = 0;
  mapped_ = 0;
}

void MappedMemory::release_last() noexcept {
  (void)driver().release(pieces_.back().memory);
  pieces_.pop_back();
}

std::uint64_t MappedMemory::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const Piece& piece : pieces_) sum += piece.bytes;
  return sum;
}

}  // namespace phi3::transfer
