// The memory control groups of this process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace transfer {

struct CgroupMemory {
  std::uint64_t limit;
  // Without file pages, which the kernel drops when it needs room; with what it takes itself where
  // all of the limit is used.
  std::uint64_t used;
};

// Each group with a limit, of version 1 or 2, from the process's own up to the outermost that can
// be seen. `root` stands before the paths of all files; it is empty but in tests.
std::vector<CgroupMemory> memory_cgroups(const std::string& root);

}  // namespace transfer
