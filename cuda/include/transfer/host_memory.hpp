// How much of the host's memory this process can have: the machine's, within the limits of its
// memory cgroups and of its own.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <optional>
#include <string>

#include "transfer/device.hpp"
#include "transfer/error.hpp"

namespace transfer {

// The least free and the least total memory of all bounds that can be read; nothing where there is
// none, as without /proc. Reads a few small files: some 100 us.
std::optional<MemoryInfo> host_memory();

// Limits that the process has whatever the files say; RLIM_INFINITY where there is none.
struct ProcessLimits {
  rlim_t address_space;
  rlim_t data;
};

// The same where the files stand below another root, for tests.
std::optional<MemoryInfo> host_memory(const std::string& root, const ProcessLimits& limits);

// Throws Error{`code`} where so many bytes, 1 MiB at least, are known to be more than is free: the
// kernel promises memory that it does not have, and kills who uses it. `what` starts the message.
void check_host_memory(std::uint64_t bytes, Code code, const std::string& what);

}  // namespace transfer
