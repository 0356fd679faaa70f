// Copies from a file mapping that another process may cut short.
#pragma once

#include <cstddef>

namespace transfer {

// memcpy from a shared file mapping. Returns false if some of the bytes cannot be read, which the
// kernel reports by SIGBUS: the file has become shorter, or a page of it cannot be read. How much
// was copied is then unspecified.
//
// The first call installs a process-wide SIGBUS handler. It acts only on faults inside a range that
// the faulting thread is copying here, and hands all others to the handler that was there before.
bool guarded_copy(std::byte* to, const std::byte* from, std::size_t bytes);

}  // namespace transfer
