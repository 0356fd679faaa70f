#include "transfer/memory_cgroups.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "transfer/text_file.hpp"

namespace phi3::transfer {
namespace {

// Names of files and fields in one version of cgroups.
struct Version {
  std::string_view file_system;
  std::string_view controller;  // name in the controller list of version 1; empty in version 2
  const char* limit;
  const char* slow_limit;  // above it, the kernel delays a process for seconds; null in version 1
  const char* used;
  std::array<const char*, 2> file_pages;  // fields of memory.stat, summed over the groups below
};

constexpr Version kVersions[] = {
    {"cgroup2",
     "",
     "/memory.max",
     "/memory.high",
     "/memory.current",
     {"inactive_file ", "active_file "}},
    {"cgroup",
     "memory",
     "/memory.limit_in_bytes",
     nullptr,
     "/memory.usage_in_bytes",
     {"total_inactive_file ", "total_active_file "}},
};

bool is_in_list(std::string_view list, std::string_view name) {
  bool found = false;
  for_each_part(list, ',', [&](std::string_view one) { found |= one == name; });
  return found;
}

// Returns the process's group in the version's hierarchy. Lines of /proc/self/cgroup have the form
// `0::/path` or `4:memory:/path`.
std::optional<std::string_view> group_of(std::string_view groups, const Version& version) {
  std::optional<std::string_view> group;
  for_each_part(groups, '\n', [&](std::string_view line) {
    const std::size_t first = line.find(':');
    if (first == std::string_view::npos) return;
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) return;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const bool is_it = version.controller.empty() ? controllers.empty()
                                                  : is_in_list(controllers, version.controller);
    if (is_it && !group) group = line.substr(second + 1);
  });
  return group;
}

// A mounted part of a hierarchy.
struct Mount {
  std::string group;  // its outermost group
  std::string folder;
};

// Replaces the kernel's escapes, such as `\040` for a blank.
std::string unescaped(std::string_view path) {
  const auto is_octal = [](char digit) { return digit >= '0' && digit <= '7'; };
  std::string out;
  for (std::size_t i = 0; i < path.size(); ++i) {
    const std::string_view digits = path[i] == '\\' ? path.substr(i + 1, 3) : std::string_view();
    if (digits.size() == 3 && std::all_of(digits.begin(), digits.end(), is_octal)) {
      out += static_cast<char>((digits[0] - '0') * 64 + (digits[1] - '0') * 8 + digits[2] - '0');
      i += digits.size();
    } else {
      out += path[i];
    }
  }
  return out;
}

// Parses lines of the form `ID PARENT DEVICE ROOT FOLDER OPTIONS [FIELDS] - TYPE SOURCE OPTIONS`.
std::vector<Mount> mounts_of(std::string_view mount_info, const Version& version) {
  std::vector<Mount> mounts;
  for_each_part(mount_info, '\n', [&](std::string_view line) {
    std::string_view root, folder, type, options;
    std::size_t number = 0, dash = 0;
    for_each_part(line, ' ', [&](std::string_view word) {
      ++number;
      if (number == 4) root = word;
      if (number == 5) folder = word;
      if (dash == 0 && word == "-") dash = number;
      if (dash != 0 && number == dash + 1) type = word;
      if (dash != 0 && number == dash + 3) options = word;
    });
    const bool is_it = type == version.file_system &&
                       (version.controller.empty() || is_in_list(options, version.controller));
    if (is_it && dash > 5) mounts.push_back({unescaped(root), unescaped(folder)});
  });
  return mounts;
}

// Returns the path of `group` relative to the outermost group of a mount. Empty if the group is not
// below it.
std::optional<std::string> path_below(std::string_view outermost, std::string_view group) {
  const std::string_view prefix = outermost == "/" ? "" : outermost;
  if (group.substr(0, prefix.size()) != prefix) return std::nullopt;
  const std::string rest(group.substr(prefix.size()));
  if (rest.empty() || rest == "/") return "";
  // The kernel writes a group outside the cgroup namespace as `/../other`.
  if (rest[0] != '/' || (rest + "/").find("/../") != std::string::npos) return std::nullopt;
  return rest;
}

// The folder of a group.
struct GroupPlace {
  std::string mount_folder;
  std::string path_below;  // empty for the outermost group of the mount
};

// Returns the folder of the group. In a container, the group may not be visible. Then the mount
// itself is used, which is the process's group or an ancestor of it.
GroupPlace place_of(const std::vector<Mount>& mounts, std::string_view group) {
  for (const Mount& mount : mounts) {
    if (auto path = path_below(mount.group, group)) return {mount.folder, std::move(*path)};
  }
  return {mounts.front().folder, ""};
}

std::optional<std::uint64_t> number_in(const std::string& path) {
  const std::optional<std::string> text = read_text(path);
  // `max` means no limit.
  return text ? first_number(*text) : std::nullopt;
}

// Returns a reserve for page tables and thread stacks, which the kernel charges to a group that
// uses its whole limit. Without it, the group would exceed the limit, and the kernel would kill the
// process. Page tables take 8 bytes for each 4096-byte page. They are counted twice: for memory,
// and for a mapped file of the same size.
std::uint64_t kernel_bytes(std::uint64_t limit) {
  constexpr std::uint64_t kStackBytes = std::uint64_t{2} << 20;
  constexpr std::uint64_t kPageBytes = 4096;
  constexpr std::uint64_t kTableBytesPerPage = 8;
  const std::uint64_t table_bytes = limit / (kPageBytes / kTableBytesPerPage);
  return std::min(limit, 2 * table_bytes + kStackBytes);
}

std::optional<CgroupMemory> read_group(const std::string& folder, const Version& version) {
  std::optional<std::uint64_t> limit = number_in(folder + version.limit);
  if (version.slow_limit != nullptr) {
    const std::optional<std::uint64_t> slow = number_in(folder + version.slow_limit);
    if (slow) limit = std::min(limit.value_or(*slow), *slow);
  }
  if (!limit) return std::nullopt;
  std::uint64_t used = number_in(folder + version.used).value_or(0);
  const std::string stat = read_text(folder + "/memory.stat").value_or("");
  for (const char* pages : version.file_pages) {
    used -= std::min(used, number_of(stat, pages).value_or(0));
  }
  return CgroupMemory{*limit, used + kernel_bytes(*limit)};
}

}  // namespace

std::vector<CgroupMemory> memory_cgroups(const std::string& root) {
  std::vector<CgroupMemory> found;
  const std::optional<std::string> groups = read_text(root + "/proc/self/cgroup");
  const std::optional<std::string> mount_info = read_text(root + "/proc/self/mountinfo");
  if (!groups || !mount_info) return found;
  for (const Version& version : kVersions) {
    const std::optional<std::string_view> group = group_of(*groups, version);
    const std::vector<Mount> mounts = mounts_of(*mount_info, version);
    if (!group || mounts.empty()) continue;
    GroupPlace place = place_of(mounts, *group);
    for (;;) {
      if (const auto memory = read_group(root + place.mount_folder + place.path_below, version)) {
        found.push_back(*memory);
      }
      if (place.path_below.empty()) break;
      place.path_below.resize(place.path_below.rfind('/'));
    }
  }
  return found;
}

}  // namespace phi3::transfer
