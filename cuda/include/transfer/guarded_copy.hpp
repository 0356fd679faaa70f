// Copies from a file mapping that another process may cut short.
#pragma once

#include <cstddef>

namespace phi3::transfer {

// memcpy from a shared file mapping. Returns false if some of the bytes cannot be read, which the
// kernel reports by SIGBUS: the file has become shorter, or a page of it cannot be read. The number
// of copied bytes is then unspecified.
//
// The first call installs a process-wide SIGBUS handler. It handles only faults in a range that the
// faulting thread copies here, and passes all others to the previous handler.
bool guarded_copy(std::byte* to, const std::byte* from, std::size_t bytes);

}  // namespace phi3::transfer
