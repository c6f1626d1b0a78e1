#pragma once
/// Kernel settings under /proc/sys, written only when they differ: a read is a third of a write, and a restart that
/// writes nothing disturbs nothing.
///
///   auto wrote = sysctl_set(interface_sysctl(Family::v4, SysctlTree::conf, "tap1", "proxy_arp").value(), "1");
///
/// Namespace: /proc/sys/net is that of the calling thread. Thread: any; blocking (microseconds).
#include <string>
#include <string_view>

#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::netlink {

enum class SysctlTree : std::uint8_t { conf, neigh };

/// "net/ipv4/conf/tap1/proxy_arp". Errors: invalid when the name is not a link's name (also "all" and "default", which
/// would reach every interface) or the key is not plain words.
[[nodiscard]] Result<std::string> interface_sysctl(Family family, SysctlTree tree, std::string_view interface,
                                                   std::string_view key);
/// `path` below /proc/sys: printable words joined by single slashes, no ".", "..", no backslash. At most 4096 bytes are
/// read, trailing white space removed. Errors: invalid, not_found, no_permission.
[[nodiscard]] Result<std::string> sysctl_get(const std::string& path);
/// True when it was written, false when it had the value already.
[[nodiscard]] Result<bool> sysctl_set(const std::string& path, std::string_view value);

}  // namespace calico::netlink
