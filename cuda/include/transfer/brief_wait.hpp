// Waiting for what is about to happen.
#pragma once

#include <chrono>

namespace transfer {

// Longer than a copy of a chunk takes, and short beside a load.
constexpr std::chrono::microseconds kBriefly{500};

// Tells a core that it spins; without it the wait costs the core's other thread as much as work.
inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `done` or when that time is over, whichever is first, and keeps the core meanwhile:
// falling asleep and waking up takes about as long as most waits here last. Who has waited in vain
// had better sleep.
template <class Done>
void wait_briefly(const Done& done) {
  if (done()) return;
  constexpr int kPauses = 16;  // between two looks
  const auto end = std::chrono::steady_clock::now() + kBriefly;
  while (!done()) {
    for (int i = 0; i < kPauses; ++i) relax();
    if (std::chrono::steady_clock::now() >= end) return;
  }
}

}  // namespace transfer
