// Short waits without sleeping.
#pragma once

#include <chrono>

namespace phi3::transfer {

// Longer than the copy of a chunk, and short compared with a load.
constexpr std::chrono::microseconds kLongestSpin{500};

// Tells the core that this thread spins. Otherwise it slows down the core's other hardware thread
// as much as real work does.
inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `done` returns true, for at most kLongestSpin. Most waits here are about as short as
// falling asleep and waking up. If `done` still returns false afterwards, the caller should block.
template <class Done>
void wait_briefly(const Done& done) {
  if (done()) return;
  constexpr int kPauses = 16;  // between two checks
  const auto end = std::chrono::steady_clock::now() + kLongestSpin;
  while (!done()) {
    for (int i = 0; i < kPauses; ++i) relax();
    if (std::chrono::steady_clock::now() >= end) return;
  }
}

}  // namespace phi3::transfer
