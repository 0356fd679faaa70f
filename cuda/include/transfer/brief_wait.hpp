// Waiting for what is about to happen.
#pragma once

#include <chrono>
#include <thread>

namespace transfer {

// Falling asleep and waking up takes about as long as most waits here last, and a core that slept
// reads slowly at first. Much longer than they last, and short beside a load.
constexpr std::chrono::milliseconds kBriefly{2};

// Returns when `done` or when that time is over, whichever is first. Others who want this core have
// it meanwhile.
template <class Done>
void wait_briefly(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kBriefly;
  while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace transfer
