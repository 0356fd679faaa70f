#include "transfer/guarded_copy.hpp"

#include <setjmp.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "transfer/error.hpp"

namespace phi3::transfer {
namespace {

// The copy that a thread currently makes.
struct Guard {
  sigjmp_buf escape;
  const std::byte* begin;
  const std::byte* end;
};

// Written before every copy, so that the handler never has to allocate it.
thread_local Guard* active = nullptr;

struct sigaction previous;

void call_previous(int signal, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    // Restores the previous handling. The access faults again and then gets it.
    sigaction(SIGBUS, &previous, nullptr);
  }
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  Guard* guard = active;
  const auto* address = static_cast<const std::byte*>(info->si_addr);
  if (guard != nullptr && address >= guard->begin && address < guard->end) {
    siglongjmp(guard->escape, 1);
  }
  call_previous(signal, info, context);
}

void install() {
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  // siglongjmp leaves the handler without restoring the mask. Therefore the handler must not mask
  // the signal.
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &previous) != 0) {
    throw io_error(errno, "guarding copies from a file mapping", {});
  }
}

}  // namespace

bool guarded_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  static std::once_flag installed;
  std::call_once(installed, install);
  Guard guard{};
  guard.begin = from;
  guard.end = from + bytes;
  if (sigsetjmp(guard.escape, 0) != 0) {
    active = nullptr;
    return false;
  }
  active = &guard;
  // The handler reads the guard while memcpy runs, which the compiler cannot know.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::memcpy(to, from, bytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  active = nullptr;
  return true;
}

}  // namespace phi3::transfer
