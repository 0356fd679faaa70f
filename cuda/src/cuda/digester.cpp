#include "digester.hpp"

#include "batcher.hpp"
#include "check.hpp"
#include "transfer/kernels.hpp"

namespace transfer {

Digester::Digester() {
  int lowest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, nullptr), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, lowest),
        "cudaStreamCreateWithPriority");
}

Digester::~Digester() {
  // A call that failed may have left a kernel behind that still writes results.
  (void)cudaStreamSynchronize(stream_);
  (void)cudaFree(results_);
  (void)cudaStreamDestroy(stream_);
}

void Digester::reserve(std::size_t count) {
  if (count <= capacity_) return;
  capacity_ = 0;
  if (results_ != nullptr) {
    Digest* before = results_;
    results_ = nullptr;
    check(cudaFree(before), "cudaFree");
  }
  check(cudaMalloc(reinterpret_cast<void**>(&results_), count * sizeof(Digest)), "cudaMalloc",
        "memory for digests");
  capacity_ = count;
}

std::vector<Digest> Digester::digests(const std::byte* data, const std::vector<ByteRange>& ranges) {
  reserve(ranges.size());
  const std::size_t bytes = ranges.size() * sizeof(Digest);
  check(cudaMemsetAsync(results_, 0, bytes, stream_), "cudaMemsetAsync");
  auto launches = batcher<kernels::DigestSegment>([this](const auto& batch) {
    check(static_cast<cudaError_t>(kernels::launch_digest(batch, stream_)), "kernel launch",
          "digesting the device buffer");
  });
  Digest* digest = results_;
  for (const ByteRange& range : ranges) {
    launches.add(
        {reinterpret_cast<const std::uint8_t*>(data + range.offset), digest++, range.bytes, 0});
  }
  launches.flush();
  std::vector<Digest> out(ranges.size());
  check(cudaMemcpyAsync(out.data(), results_, bytes, cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync", "reading digests back");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", "digesting the device buffer");
  return out;
}

}  // namespace transfer
