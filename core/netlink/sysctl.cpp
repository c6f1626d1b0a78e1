#include "core/netlink/sysctl.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/netlink/types.hpp"

namespace calico::netlink {

namespace {
bool plain_word(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

bool valid_path(std::string_view path) {
  if (path.empty() || path.size() > 200) return false;
  for (std::size_t at = 0; at <= path.size();) {
    const auto slash = std::min(path.find('/', at), path.size());
    const auto part = path.substr(at, slash - at);
    if (part.empty() || part == "." || part == "..") return false;
    if (!std::all_of(part.begin(), part.end(), [](char c) { return c > ' ' && c < 0x7f && c != '\\'; })) return false;
    at = slash + 1;
  }
  return true;
}

struct Fd {
  int fd;
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
};
}  // namespace

Result<std::string> interface_sysctl(Family family, SysctlTree tree, std::string_view interface, std::string_view key) {
  if (!valid_interface_name(interface) || interface == "all" || interface == "default")
    return fail(Errc::invalid, "'{}' is not the name of an interface", interface);
  if (!plain_word(key)) return fail(Errc::invalid, "'{}' is not the name of a setting", key);
  return fmt::format("net/ipv{}/{}/{}/{}", family == Family::v4 ? 4 : 6, tree == SysctlTree::conf ? "conf" : "neigh",
                     interface, key);
}

Result<std::string> sysctl_get(const std::string& path) {
  if (!valid_path(path)) return fail(Errc::invalid, "'{}' is not a path below /proc/sys", path);
  const Fd f{::open(("/proc/sys/" + path).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
  if (f.fd < 0) return fail_errno(errno, "read /proc/sys/" + path);
  std::array<char, 4096> buf{};
  const auto n = ::read(f.fd, buf.data(), buf.size());
  if (n < 0) return fail_errno(errno, "read /proc/sys/" + path);
  std::string s(buf.data(), static_cast<std::size_t>(n));
  while (!s.empty() && static_cast<unsigned char>(s.back()) <= ' ') s.pop_back();
  return s;
}

Result<bool> sysctl_set(const std::string& path, std::string_view value) {
  auto now = sysctl_get(path);
  if (!now) return tl::unexpected(now.error());
  if (*now == value) return false;
  const Fd f{::open(("/proc/sys/" + path).c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW)};
  if (f.fd < 0) return fail_errno(errno, "write /proc/sys/" + path);
  if (::write(f.fd, value.data(), value.size()) != static_cast<ssize_t>(value.size()))
    return fail_errno(errno, fmt::format("write '{}' to /proc/sys/{}", value, path));
  return true;
}

}  // namespace calico::netlink
