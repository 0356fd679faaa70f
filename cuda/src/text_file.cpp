#include "transfer/text_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "transfer/descriptor.hpp"

namespace phi3::transfer {

std::optional<std::string> read_text(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.value() < 0) return std::nullopt;
  std::string text;
  for (;;) {
    char part[4096];
    const ssize_t count = read(file.value(), part, sizeof part);
    if (count == 0) return text;
    if (count > 0) {
      text.append(part, static_cast<std::size_t>(count));
    } else if (errno != EINTR) {
      return std::nullopt;
    }
  }
}

std::optional<std::uint64_t> first_number(std::string_view text) {
  const std::size_t start = std::min(text.find_first_not_of(" \t"), text.size());
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text.data() + start, text.data() + text.size(), number);
  if (parsed.ec != std::errc()) return std::nullopt;
  return number;
}

std::optional<std::uint64_t> number_of(std::string_view text, std::string_view name) {
  std::optional<std::string_view> found;
  for_each_part(text, '\n', [&](std::string_view line) {
    if (!found && line.substr(0, name.size()) == name) found = line.substr(name.size());
  });
  return found ? first_number(*found) : std::nullopt;
}

}  // namespace phi3::transfer
