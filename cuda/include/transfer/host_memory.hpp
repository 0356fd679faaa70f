// How much of the host's memory this process can use: the machine's memory, limited by memory
// cgroups, RLIMIT_AS and RLIMIT_DATA.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <optional>
#include <string>

#include "transfer/device.hpp"
#include "transfer/error.hpp"

namespace phi3::transfer {

// Returns the smallest free and the smallest total memory of all limits. Empty if none of them can
// be read, for example without /proc. Takes about 100 us, because it reads a few small files.
std::optional<MemoryInfo> host_memory();

// The process's own limits; RLIM_INFINITY for none.
struct ProcessLimits {
  rlim_t address_space;
  rlim_t data;
};

// For tests: reads the files below `root`.
std::optional<MemoryInfo> host_memory(const std::string& root, const ProcessLimits& limits);

// Throws Error{`code`} if the free memory is known and is less than `bytes`. Without this check,
// the kernel would map the memory and kill the process when it uses it. Does not check requests
// below 1 MiB. The message starts with `what`.
void check_host_memory(std::uint64_t bytes, Code code, const std::string& what);

}  // namespace phi3::transfer
