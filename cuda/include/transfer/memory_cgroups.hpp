// The memory control groups of this process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace phi3::transfer {

struct CgroupMemory {
  std::uint64_t limit;
  // Does not include file pages, which the kernel drops when it needs room. Includes the memory
  // that the kernel needs for page tables and threads if the whole limit is used.
  std::uint64_t used;
};

// Returns all groups with a limit, of version 1 or 2, from the process's own group up to the
// outermost visible one. File paths start with `root`, which is empty except in tests.
std::vector<CgroupMemory> memory_cgroups(const std::string& root);

}  // namespace phi3::transfer
