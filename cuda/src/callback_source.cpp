#include "transfer/callback_source.hpp"

#include <algorithm>
#include <utility>

#include "transfer/error.hpp"
#include "transfer/rounding.hpp"

namespace phi3::transfer {
namespace {

class CallbackSource final : public Source {
 public:
  CallbackSource(ReadCallback read, const CallbackHints& hints, std::uint32_t index)
      : read_(std::move(read)), hints_(hints), index_(index) {}

  std::uint64_t bytes() const noexcept override { return hints_.bytes; }
  bool wants_alignment(std::uint64_t, std::uint64_t) noexcept override {
    return hints_.whole_pages;
  }
  std::uint64_t read_bytes() const noexcept override { return hints_.read_bytes; }
  bool wants_concurrency() noexcept override { return hints_.concurrent; }

  void read(std::uint64_t offset, std::uint64_t bytes, std::byte* out,
            const std::atomic<bool>& stop) override {
    std::uint64_t begin = offset;
    std::uint64_t end = offset + bytes;
    if (hints_.whole_pages) {
      begin = round_down(begin, kSourceAlignment);
      end += std::min(round_up(end, kSourceAlignment) - end, hints_.bytes - end);
    }
    try {
      read_(begin, end - begin, out - (offset - begin), stop);
    } catch (const Error& error) {
      // A stopped read has nothing to report.
      if (!stop.load()) throw error.at(ErrorSite::of_source(index_));
    }
  }

 private:
  ReadCallback read_;
  CallbackHints hints_;
  std::uint32_t index_;
};

}  // namespace

std::unique_ptr<Source> make_callback_source(ReadCallback read, const CallbackHints& hints,
                                             std::uint32_t index) {
  return std::make_unique<CallbackSource>(std::move(read), hints, index);
}

}  // namespace phi3::transfer
