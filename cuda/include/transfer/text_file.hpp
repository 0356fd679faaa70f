// Small files in which the kernel tells figures.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace transfer {

// The file's text; nothing where it cannot be read.
std::optional<std::string> read_text(const std::string& path);

// Calls `use` with each part between separators. Without the last where that is empty.
template <class Use>
void for_each_part(std::string_view text, char separator, Use&& use) {
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find(separator, start), text.size());
    use(text.substr(start, end - start));
    start = end + 1;
  }
}

// The number that the text starts with, after blanks; nothing where it starts with another word, or
// 64 bits do not hold it.
std::optional<std::uint64_t> first_number(std::string_view text);

// The number behind `name` in the first line that starts with it. `name` has the separator that
// ends it: a blank or a colon.
std::optional<std::uint64_t> number_of(std::string_view text, std::string_view name);

}  // namespace transfer
