#include "digester.hpp"

#include "batcher.hpp"
#include "check.hpp"
#include "transfer/kernels.hpp"

namespace phi3::transfer {

std::vector<Digest> Digester::digests(const std::byte* data, const std::vector<ByteRange>& ranges) {
  results_.reserve(ranges.size(), "digests");
  const cudaStream_t stream = stream_.get();
  const std::size_t bytes = ranges.size() * sizeof(Digest);
  check(cudaMemsetAsync(results_.data(), 0, bytes, stream), "cudaMemsetAsync");
  auto launches = batcher<kernels::DigestSegment>([stream](const auto& batch) {
    check(static_cast<cudaError_t>(kernels::launch_digest(batch, stream)), "kernel launch",
          "digesting the device buffer");
  });
  Digest* digest = results_.data();
  for (const ByteRange& range : ranges) {
    launches.add(
        {reinterpret_cast<const std::uint8_t*>(data + range.offset), digest++, range.bytes, 0});
  }
  launches.flush();
  std::vector<Digest> out(ranges.size());
  check(cudaMemcpyAsync(out.data(), results_.data(), bytes, cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync", "reading digests back");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize", "digesting the device buffer");
  return out;
}

}  // namespace phi3::transfer
