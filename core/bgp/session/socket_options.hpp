#pragma once
/// The socket options BGP needs and Asio has no names for. Thread: any. Errors: unsupported, no_permission, invalid;
/// the socket is as before.
#include <optional>
#include <string_view>

#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::bgp {

/// TCP MD5 (RFC 2385) towards every peer in `peer`; an empty password removes the key. For a listener and before
/// connect.
[[nodiscard]] Status set_md5(int fd, const Prefix& peer, std::string_view password);
/// TTL or hop limit of what we send.
[[nodiscard]] Status set_ttl(int fd, Family family, int ttl);
/// Drops segments with a lower TTL (RFC 5082). 0 turns it off.
[[nodiscard]] Status set_min_ttl(int fd, Family family, int ttl);
/// A listener with this remembers each connection's SYN until it is accepted.
[[nodiscard]] Status set_save_syn(int fd);
/// The TTL or hop limit the SYN of an accepted connection arrived with; nullopt: not remembered. A connection is
/// accepted some time after it began, with data in it perhaps: set_min_ttl() alone comes too late for those first
/// segments.
[[nodiscard]] std::optional<int> syn_ttl(int fd);
/// Binding to an address that the host gets later (boot).
[[nodiscard]] Status set_free_bind(int fd, Family family);
/// DSCP CS6, as routing protocols are marked (RFC 4271 has no say; RFC 4594 3.1).
void set_control_class(int fd, Family family);

}  // namespace calico::bgp
