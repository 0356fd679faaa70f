// Chooses the link over which each chunk goes, and the order of chunks.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer/schedule.hpp"

namespace phi3::transfer {

// The lanes of an engine. The first ones have destinations; the others only lend their links.
struct Links {
  std::uint32_t destinations;
  // takes_from[a][b]: whether lane a can copy from the memory of lane b's device.
  std::vector<std::vector<bool>> takes_from;
};

// Sets the carrier of chunks that several lanes need, or whose lane can borrow a link, such that
// every link carries about the same number of bytes. Then reorders the chunks such that all links
// have work until the end: at each chunk, every link has carried about the same fraction of its
// bytes. In the order of the source, the links could be used one after the other.
void route(Schedule& schedule, const Links& links);

// Returns the bytes of the schedule that go over the link of each lane.
std::vector<std::uint64_t> link_bytes(const Schedule& schedule);

}  // namespace phi3::transfer
