#pragma once
/// One dump or one question on a netlink socket: sends a request, reads its answers. Shared by Rtnl and
/// nft::Connection.
#include <functional>
#include <string_view>

#include "core/netlink/socket.hpp"

namespace calico::netlink {

/// A verdict of the kernel as an Error: "what: No such device (the kernel's text)".
[[nodiscard]] Error error_of(const Ack& ack, std::string_view what);

/// Sends `request` (one message with NLM_F_DUMP) and calls `each` with every message of the answer. A dump the kernel
/// calls inconsistent (NLM_F_DUMP_INTR) is read again, up to five times: `restart` forgets what came before. Errors:
/// the kernel's verdict, busy (never consistent), timeout, exhausted.
[[nodiscard]] Status dump(Socket& socket, Bytes& buffer, View request, std::uint32_t& seq, std::string_view what,
                          const std::function<void()>& restart, const std::function<void(const Message&)>& each);

/// Sends `request` and calls `each` with the one message that answers it.
[[nodiscard]] Status ask(Socket& socket, Bytes& buffer, View request, std::uint32_t& seq, std::string_view what,
                         const std::function<void(const Message&)>& each);

}  // namespace calico::netlink
