// Small text files of the kernel, such as those of /proc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace phi3::transfer {

// Returns the file's text; empty if it cannot be read.
std::optional<std::string> read_text(const std::string& path);

// Calls `use` with each part between separators, except for an empty last part.
template <class Use>
void for_each_part(std::string_view text, char separator, Use&& use) {
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find(separator, start), text.size());
    use(text.substr(start, end - start));
    start = end + 1;
  }
}

// Returns the number at the start of the text, after blanks. Empty if there is none, or if it
// exceeds 64 bits.
std::optional<std::uint64_t> first_number(std::string_view text);

// Returns the number after `name` in the first line that starts with `name`. `name` includes its
// final separator, a blank or a colon.
std::optional<std::uint64_t> number_of(std::string_view text, std::string_view name);

}  // namespace phi3::transfer
